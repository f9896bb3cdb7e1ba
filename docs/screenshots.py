"""Take pictures of what MLflow shows of the newest run: runs, charts, per-case table, overlays, model card.

    python docs/screenshots.py OUT            # the store that `medseg ui` would serve

Needs Chromium and its driver (Debian: chromium chromium-driver), nothing from PyPI: the WebDriver protocol is
JSON over HTTP. Pictures of patients' images stay out of the repository.

Addresses in MLflow 3.17 (the parameter after the fragment keeps the pages for language models away):
    /#/experiments/E/runs?workflowType=machine_learning                            list of runs
    /#/experiments/E/runs?viewStateShareKey=KEY&workflowType=machine_learning      with stored columns
    /#/experiments/E/runs?compareRunsMode=CHART&workflowType=machine_learning      charts over runs
    /#/experiments/E/runs/R?workflowType=machine_learning                          parameters and last metrics
    /#/experiments/E/runs/R/model-metrics?workflowType=machine_learning            charts per epoch
    /#/experiments/E/runs/R/artifacts/cases.json?workflowType=machine_learning     a table if tagged so
    /#/experiments/E/runs/R/artifacts/overlays/NAME.png?workflowType=...           the picture itself
`chromium --screenshot` with --virtual-time-budget draws all of these but the charts, whose data loads in real
time; hence the driver.
"""

from __future__ import annotations

import argparse
import base64
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

from medseg.tracking.place import VIEW

OPENER = build_opener(ProxyHandler({}))  # loopback never goes through a proxy
SERVE = "from medseg.tracking.ui import serve; serve(0, announce=lambda link: print(link, flush=True))"
CHROMIUM = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1600,1150",
]  # fmt: skip
TIDY = """document.querySelectorAll('button[aria-label="Close"]').forEach(b => b.click());
document.querySelectorAll('.modebar-container').forEach(b => b.remove());"""  # chat panel, chart tools
STILL_S, PATIENCE_S = 2.5, 45.0


def ask(url: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    """Send JSON (POST if there is a body), return JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310 - loopback
    with OPENER.open(request, timeout=120) as answer:
        return json.load(answer)


@contextmanager
def open_interface() -> Iterator[str]:
    """Yield the address of a fresh server of the tracking store."""
    server = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True)
    try:
        link = server.stdout.readline() if server.stdout else ""
        if not link:
            sys.exit("the interface did not start")
        yield link.split("/#")[0]
    finally:
        server.terminate()
        server.wait()


@contextmanager
def open_browser() -> Iterator[str]:
    """Yield the address of a WebDriver session."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as profile:
        try:
            _wait_for(f"http://127.0.0.1:{port}/status")
            options = {"args": [*CHROMIUM, f"--user-data-dir={profile}"]}
            wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
            session = ask(f"http://127.0.0.1:{port}/session", wanted)["value"]["sessionId"]
            yield f"http://127.0.0.1:{port}/session/{session}"
            ask(f"http://127.0.0.1:{port}/session/{session}", method="DELETE")
        finally:
            driver.terminate()
            driver.wait()


def take(browser: str, url: str, path: Path) -> None:
    """Open a page, wait until it stands still, save what is seen."""
    ask(f"{browser}/url", {"url": "about:blank"})  # a new fragment alone would not load the page again
    ask(f"{browser}/url", {"url": url})
    before, since, start = "", time.monotonic(), time.monotonic()
    while time.monotonic() - since < STILL_S and time.monotonic() - start < PATIENCE_S:
        time.sleep(0.3)
        run(browser, TIDY)
        now = run(browser, "return document.body.innerHTML")
        if now != before or "loading" in run(browser, "return document.body.innerText").lower():
            before, since = now, time.monotonic()
    path.write_bytes(base64.b64decode(ask(f"{browser}/screenshot")["value"]))
    print(path)


def run(browser: str, script: str) -> Any:
    """Run JavaScript in the page."""
    return ask(f"{browser}/execute/sync", {"script": script, "args": []})["value"]


def list_pages(server: str) -> dict[str, str]:
    """Return name -> fragment of the pages worth a picture, for the newest run."""
    api = f"{server}/api/2.0/mlflow"
    experiments = [
        e["experiment_id"] for e in ask(f"{api}/experiments/search", {"max_results": 1000})["experiments"]
    ]
    query = {"experiment_ids": experiments, "order_by": ["attributes.start_time DESC"], "max_results": 1}
    runs = ask(f"{api}/runs/search", query).get("runs", [])
    if not runs:
        sys.exit("nothing was tracked yet")
    info = runs[0]["info"]
    all_runs = f"/experiments/{info['experiment_id']}/runs"
    page = f"{all_runs}/{info['run_id']}"
    pages = {
        "runs": f"{all_runs}?viewStateShareKey={VIEW}",
        "runs_chart": f"{all_runs}?compareRunsMode=CHART",
        "run": page,
        "epochs": f"{page}/model-metrics",
    }
    for folder in ("", "overlays"):
        listed = ask(f"{api}/artifacts/list?" + urlencode({"run_id": info["run_id"], "path": folder}))
        for file in listed.get("files", []):
            if not file.get("is_dir"):
                pages[Path(file["path"]).stem] = f"{page}/artifacts/{quote(file['path'])}"
    return pages


def _wait_for(url: str) -> None:
    for _ in range(100):
        try:
            ask(url)
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("chromedriver does not answer")


def main() -> None:
    """Save one PNG per page into the folder named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with open_interface() as server, open_browser() as browser:
        for name, fragment in list_pages(server).items():
            mark = "&" if "?" in fragment else "?"
            take(browser, f"{server}/#{fragment}{mark}workflowType=machine_learning", out / f"{name}.png")


if __name__ == "__main__":
    main()
