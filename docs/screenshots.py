"""Make docs/mlflow_*.png: what MLflow shows of two short runs on phantoms, in Chromium.

    python docs/screenshots.py [OUT]

Trains twice in a temporary folder (minutes), serves what was tracked as `medseg ui` does, and saves a picture
a page. Needs Chromium and playwright. Pictures of patients' images stay out of the repository.

Addresses in MLflow 3.17 (the parameter after the fragment keeps the pages for language models away):
    /#/experiments/E/runs?viewStateShareKey=KEY&workflowType=machine_learning      list of runs, our columns
    /#/experiments/E/runs?compareRunsMode=CHART&workflowType=machine_learning      charts over runs
    /#/experiments/E/runs/R?workflowType=machine_learning                          parameters and last metrics
    /#/experiments/E/runs/R/model-metrics?workflowType=machine_learning            charts and images by epoch
    /#/experiments/E/runs/R/artifacts/cases.json?workflowType=machine_learning     a table if tagged so
    /#/experiments/E/runs/R/artifacts/review.html?workflowType=...                 the review page, framed
`chromium --screenshot` with --virtual-time-budget draws all of these but the charts, whose data loads in real
time; hence a driven browser. Pages keep connections open, so that "network idle" comes late or never: a page
is ready when it stands still. Charts are drawn once they are scrolled to, hence the high window.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

SHORT = ["train.epochs=12", "train.iterations_per_epoch=15", "train.validate_every=2", "threads=1"]
RUNS = {"default": [], "attention": ["model={name: attention_unet, options: {features: [8, 16, 32, 64]}}"]}
SERVE = "from medseg.tracking.ui import serve; serve(0, announce=lambda link: print(link, flush=True))"
# The chat panel, its button and the tools of charts.
TIDY = """document.querySelectorAll('button[aria-label="Close"]').forEach(b => b.click());
document.querySelectorAll('.modebar-container').forEach(b => b.remove());"""
STILL_S, PATIENCE_S = 2.5, 60.0


def train(folder: Path) -> None:
    """Train and track on phantoms, once per entry of RUNS."""

    def medseg(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "medseg", *arguments, "-q"], check=True, cwd=folder)

    medseg("phantom", "-o", "phantoms", "--cases", "20")
    for name, settings in RUNS.items():
        changes = [part for setting in SHORT + settings for part in ("--set", setting)]
        medseg("run", "phantom_ct", "--data", "phantoms", "-o", f"out/{name}", *changes)


@contextmanager
def open_interface() -> Iterator[str]:
    """Yield the link that `medseg ui` prints: the list of runs."""
    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as server:
        try:
            link = server.stdout.readline().strip() if server.stdout else ""
            yield link or sys.exit("the interface did not start")
        finally:
            server.terminate()


def take(page: Page, url: str, path: Path, height: int) -> None:
    """Open a page, wait until it stands still, save what is seen."""
    page.set_viewport_size({"width": 1280, "height": height})
    page.goto("about:blank")  # a new fragment alone would not load the page again
    page.goto(url)
    before, since, start = "", time.monotonic(), time.monotonic()
    while time.monotonic() - since < STILL_S and time.monotonic() - start < PATIENCE_S:
        page.wait_for_timeout(300)
        page.evaluate(TIDY)
        now = page.evaluate("document.body.innerHTML")
        if now != before or "loading" in page.inner_text("body").lower():
            before, since = now, time.monotonic()
    if "model-metrics" in url:  # the last chart is one case, with a slider over the epochs
        slider = page.get_by_role("slider").last
        slider.scroll_into_view_if_needed()
        slider.focus()
        for _ in range(6):
            slider.press("ArrowRight")
            page.wait_for_timeout(500)
        page.wait_for_timeout(STILL_S * 1000)
    page.screenshot(path=path)
    print(path, path.stat().st_size // 1000, "kB")


def list_pages(link: str, run: str, fold: str) -> dict[str, tuple[str, int]]:
    """Return name -> address and height of the pages worth a picture."""
    runs, _, view = link.partition("?")
    end = "?workflowType=machine_learning"
    return {
        "runs": (f"{runs}?{view}", 420),
        "run": (f"{runs}/{run}{end}", 900),
        "epochs": (f"{runs}/{fold}/model-metrics{end}", 1600),
    }


def main() -> None:
    """Save the pictures into the folder named on the command line, docs without one."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).resolve()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as play:
        folder = Path(name)
        os.environ["MEDSEG_HOME"] = str(folder / "home")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'home' / 'mlflow.db'}"
        train(folder)
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        with open_interface() as link:
            ids = json.loads((folder / "out" / "default" / "tracking.json").read_text())
            for kind, (url, height) in list_pages(link, ids["run_id"], ids["folds"]["0"]).items():
                take(page, url, out / f"mlflow_{kind}.png", height)
        browser.close()


if __name__ == "__main__":
    main()
