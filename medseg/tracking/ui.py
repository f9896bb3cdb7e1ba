"""Serve what was tracked: MLflow's web interface, on this machine only unless more is asked for."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from medseg.core.errors import ResourceError
from medseg.core.interrupt import as_interrupt
from medseg.tracking import exposure, place
from medseg.tracking.address import DEFAULT_PORT, VIEW, VIEW_TAG, find_store, is_server, link_to

log = logging.getLogger(__name__)

START_S = 120.0  # a new database alone takes several seconds on a busy machine
STOP_S = 10.0
LOG = "ui.log"
OPENER = build_opener(ProxyHandler({}))  # loopback never goes through the user's proxy


def serve(
    port: int = DEFAULT_PORT,
    host: str = "127.0.0.1",
    *,
    names: Sequence[str] = (),
    is_open: bool = False,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve the tracking store until Ctrl-C or SIGTERM.

    Where `MLFLOW_TRACKING_URI` names a server, that server's link is announced and nothing is started.

    Args:
        port: A free one is taken instead where it is in use.
        host: A loopback name, or with `is_open` another address of this machine, or 0.0.0.0 for all of them.
        names: By which browsers elsewhere reach it; see `exposure.make_options`.
        is_open: Whether everyone who reaches the port may read, change and delete runs; what is missing is
            then logged (UI_OPEN).
        announce: Called once with the link that opens the newest runs.

    Raises:
        ConfigError: The host is not loopback and `is_open` is not set, or a name is none.
        ResourceError: The server does not start, or stops by itself.
    """
    store = find_store()
    if is_server(store):
        announce(link_to(store, "/experiments"))
        return
    exposure.check_exposure(host, names, is_open=is_open)
    with as_interrupt(signal.SIGTERM):
        try:
            with _open_server(store, port, host, names) as (server, address):
                for fact in exposure.list_missing(host, names):
                    log.warning("UI_OPEN %s", fact)
                announce(_link_to_newest(address))
                raise _stopped(server.wait())
        except KeyboardInterrupt:
            return


@contextmanager
def _open_server(
    store: str, port: int, host: str, names: Sequence[str]
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    place.prepare_mlflow()
    place.make_home()
    port = _choose_port(host, port)
    address = exposure.reach(host, port)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--default-artifact-root",
        place.find_artifacts().as_uri(),
    ]
    command += ["--no-serve-artifacts"]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    command += exposure.make_options(host, port, names)
    with _open_private(place.find_home() / LOG) as log:
        # Its own session, so that Ctrl-C reaches only this process, which then stops the whole group.
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=place.find_home(),
            env={**os.environ, "MLFLOW_BACKEND_STORE_URI": store},  # all users can read a command line
            start_new_session=True,
        )
        try:
            _wait_until_ready(server, address)
            yield server, address
        finally:
            _stop(server)


def _wait_until_ready(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        status = server.poll()
        if status is not None:
            raise _stopped(status)
        try:
            with OPENER.open(f"{address}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.2)
    raise ResourceError(
        f"the MLflow server did not answer within {START_S:.0f} s", hint=_see_log(), code="UI_TIMEOUT"
    )


def _link_to_newest(address: str) -> str:
    """Return a link to the experiment of the newest run, or to all experiments where there is no run."""
    experiments = _ask(address, "experiments/search", {"max_results": 1000}).get("experiments", [])
    tags = {e["experiment_id"]: {tag["key"] for tag in e.get("tags", [])} for e in experiments}
    query = {"experiment_ids": list(tags), "order_by": ["attributes.start_time DESC"], "max_results": 1}
    runs = _ask(address, "runs/search", query).get("runs", []) if tags else []
    if not runs:
        return link_to(address, "/experiments")
    newest = runs[0]["info"]["experiment_id"]
    view = VIEW if VIEW_TAG in tags[newest] else ""
    return link_to(address, f"/experiments/{newest}/runs", view)


def _ask(address: str, call: str, query: dict[str, Any]) -> dict[str, Any]:
    request = Request(  # noqa: S310 - always http on loopback
        f"{address}/api/2.0/mlflow/{call}", json.dumps(query).encode(), {"Content-Type": "application/json"}
    )
    try:
        with OPENER.open(request, timeout=30) as answer:
            return dict(json.load(answer))
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"the MLflow server answers wrongly ({type(error).__name__})", hint=_see_log(), code="UI_BROKEN"
        ) from error


def _choose_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in (port, 0):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ResourceError(
        f"no port can be opened on {host}", hint="give an address of this machine", code="UI_NO_PORT"
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    for step in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, step)
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    server.wait(STOP_S)


@contextmanager
def _open_private(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _stopped(status: int) -> ResourceError:
    return ResourceError(
        f"the MLflow server stopped with status {status}", hint=_see_log(), code="UI_STOPPED"
    )


def _see_log() -> str:
    return f"read {LOG} in the tracking folder ($MEDSEG_HOME)"
