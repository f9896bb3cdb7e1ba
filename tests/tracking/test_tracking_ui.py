import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from medseg.core.errors import ConfigError, ResourceError
from medseg.tracking.store import start_run
from medseg.tracking.ui import OPENER, _choose_port, serve

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

SERVE = "from medseg.tracking.ui import serve; serve(0, announce=lambda link: print(link, flush=True))"


@dataclass
class Served:
    process: subprocess.Popen[str]
    link: str
    run_id: str

    @property
    def address(self) -> str:
        return self.link.split("/#")[0]


@pytest.fixture(scope="module")
def served(tracking_home: Path) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEG_HOME", str(tracking_home))
        tracker = start_run("served", "run")
        tracker.log_content("hello", "note.txt")
        tracker.end()
        process = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        yield Served(process, process.stdout.readline().strip(), tracker.run_id)
        process.kill()


def test_link_opens_the_runs_of_the_newest_experiment(served: Served):
    path, _, fragment = served.link.partition("#")

    assert fragment.endswith("/runs?workflowType=machine_learning&viewStateShareKey=medseg")
    assert path.startswith("http://127.0.0.1:")
    with OPENER.open(
        f"{served.address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=served"
    ) as answer:
        assert f"/experiments/{json.load(answer)['experiment']['experiment_id']}/" in fragment


def test_artifacts_can_be_read_through_the_interface(served: Served):
    url = f"{served.address}/get-artifact?path=note.txt&run_uuid={served.run_id}"

    with OPENER.open(url) as answer:
        assert answer.read() == b"hello"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers on every address of 127.0.0.0/8")
def test_server_listens_on_one_loopback_address_only(served: Served):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", urlsplit(served.link).port or 0), timeout=5)


def test_log_of_the_server_is_private(served: Served, tracking_home: Path):
    assert (tracking_home / "ui.log").stat().st_mode & 0o77 == 0


def test_sigterm_stops_the_server_and_its_children(served: Served):
    served.process.send_signal(signal.SIGTERM)

    assert served.process.wait(30) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(served.link).port or 0), timeout=5)


def test_free_port_is_taken_where_the_wanted_one_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        assert _choose_port("127.0.0.1", busy.getsockname()[1]) not in (0, busy.getsockname()[1])


def test_free_wanted_port_is_kept():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    assert _choose_port("127.0.0.1", port) == port


def test_other_hosts_than_loopback_are_refused():
    with pytest.raises(ConfigError) as error:
        serve(0, "192.0.2.1")

    assert error.value.code == "UI_NOT_LOOPBACK"


def test_tracking_server_of_the_user_is_only_linked_to(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host/mlflow")
    links: list[str] = []
    serve(announce=links.append)

    assert links == ["https://host/mlflow/#/experiments?workflowType=machine_learning"]


def test_server_that_stops_at_once_is_a_resource_error(monkeypatch, tmp_path):
    (tmp_path / "runs.db").write_bytes(b"no database at all" * 50)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")

    with pytest.raises(ResourceError) as error:
        serve(0)
    assert (error.value.code, error.value.exit_code) == ("UI_STOPPED", 4)
    assert os.environ["MEDSEG_HOME"] not in error.value.message + error.value.hint
