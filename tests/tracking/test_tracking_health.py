"""The tracking store is looked at without MLflow and without a change."""

from __future__ import annotations

import http.server
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medseg.tracking import health
from medseg.tracking.health import check_store


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    servers = []

    def start(status: int) -> None:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/mlflow/health" else 404)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        address = f"http://user:secret@127.0.0.1:{server.server_port}/mlflow/"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_database_that_is_not_there_yet_is_not_made(home: Path):
    assert check_store() == ("a database, made by the first run", "") and not home.exists()


def test_a_home_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert check_store()[1] == "its folder is read-only"


def test_a_database_with_experiments_opens(home: Path):
    home.mkdir()
    connection = sqlite3.connect(home / "mlflow.db")
    connection.execute("create table experiments (id integer)")
    connection.close()
    assert check_store() == ("a database", "")


@pytest.mark.parametrize(
    ("content", "cause"), [(b"no database at all" * 50, "DatabaseError"), (b"", "OperationalError")]
)
def test_a_damaged_or_empty_database_is_told(home: Path, content: bytes, cause: str):
    home.mkdir()
    (home / "mlflow.db").write_bytes(content)
    assert check_store() == ("a database", f"it cannot be read ({cause})")


@pytest.mark.parametrize(
    ("status", "fault"), [(200, ""), (401, ""), (403, ""), (502, "it answers with status 502")]
)
def test_a_server_is_asked(serve: Callable[[int], None], status: int, fault: str):
    serve(status)
    assert check_store() == ("a server", fault)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_is_not_there_is_told_without_its_address(scheme: str, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://user:secret@127.0.0.1:{port}")
    assert check_store() == ("a server", "it does not answer (ConnectionRefusedError)")


def test_a_server_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(health, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        assert check_store() == ("a server", "it does not answer (TimeoutError)")


def test_another_database_is_named_and_not_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////srv/runs.db")
    assert check_store() == ("sqlite, not checked", "")
