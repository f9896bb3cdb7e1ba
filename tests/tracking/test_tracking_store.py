import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import medseg
from medseg.tracking import process
from medseg.tracking.address import find_store
from medseg.tracking.place import prepare_mlflow
from medseg.tracking.runs import MAX_VALUE, clean, flatten
from medseg.tracking.store import Tracker, start_run

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def read_run(tracker: Tracker):
    from mlflow.tracking import MlflowClient

    return MlflowClient(find_store()).get_run(tracker.run_id)


def folder_of(tracker: Tracker, home: Path) -> Path:
    return home / "artifacts" / tracker.run_id / "artifacts"


def test_params_and_metrics_of_a_finished_run_are_stored():
    tracker = start_run("stored", "fold 0", params={"model": {"name": "unet", "filters": [8, 16]}})
    tracker.log_metrics({"train/loss": 0.5, "val/dice": None, "val/nsd": float("nan")}, 3)
    tracker.end()

    run = read_run(tracker)
    assert run.data.params == {"model.name": "unet", "model.filters": "[8, 16]"}
    assert run.data.metrics == {"train/loss": 0.5}
    assert (run.info.status, run.info.run_name) == ("FINISHED", "fold 0")


def test_more_params_and_metrics_than_one_request_may_hold_are_all_stored():
    tracker = start_run("many", "run", params={f"p{n}": n for n in range(205)})
    tracker.log_metrics({f"m{n}": float(n) for n in range(1100)}, 0)

    run = read_run(tracker)
    assert (len(run.data.params), len(run.data.metrics)) == (205, 1100)


def test_experiment_opens_on_the_pages_for_model_training_with_our_columns():
    from mlflow.tracking import MlflowClient

    start_run("kind", "run", columns=["val/dice"]).end()

    tags = MlflowClient(find_store()).get_experiment_by_name("kind").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.medseg"])
    assert view["selectedColumns"] == ["attributes.`Duration`", "metrics.`val/dice`"]


def test_database_names_no_user_no_script_and_no_input_path(tracking_home: Path):
    tracker = start_run("private", "run", params={"init": "/clinic/STS_001", "again": Path("in/STS_002")})
    tracker.log_table([{"id": "a", "dice": 0.5}], "cases.json")
    tracker.end()

    with sqlite3.connect(tracking_home / "mlflow.db") as database:
        text = "\n".join(database.iterdump()).replace(tracking_home.as_uri(), "")
    database.close()
    assert tracker.run_id in text
    for secret in ("drsmith", "STS_00", str(Path.cwd()), __file__, "pytest"):
        assert secret not in text


def test_only_the_owner_can_read_what_is_stored(tracking_home: Path):
    tracker = start_run("modes", "run")
    tracker.log_content(b"\x89PNG", "overlays/worst.png")
    tracker.log_table([{"id": "a"}], "cases.json")

    own = [tracking_home, tracking_home / "mlflow.db", tracking_home / "artifacts"]
    own += [tracking_home / "artifacts" / tracker.run_id, *folder_of(tracker, tracking_home).rglob("*")]
    assert len(own) == 7
    assert {path: oct(path.stat().st_mode & 0o77) for path in own} == dict.fromkeys(own, "0o0")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("left/right//x", "left/right/x"),
        ("../a/./b", "a/b"),
        ("/", "_"),
        ("a<b>", "a_b_"),
        ("val/dice", "val/dice"),
    ],
)
def test_names_are_ones_that_mlflow_takes(said: str, kept: str):
    assert clean(said) == kept


def test_table_is_tagged_so_that_the_interface_renders_it(tracking_home: Path):
    tracker = start_run("table", "run")
    tracker.log_table([{"id": "a", "dice": 0.123456}, {"id": "b", "dice": None}], "cases.json")

    stored = json.loads((folder_of(tracker, tracking_home) / "cases.json").read_text())
    assert stored == {"columns": ["id", "dice"], "data": [["a", 0.1235], ["b", ""]]}
    tag = json.loads(read_run(tracker).data.tags["mlflow.loggedArtifacts"])
    assert tag == [{"path": "cases.json", "type": "table"}]


def test_resumed_run_goes_on_under_the_same_id(tracking_home: Path):
    first = start_run("resumed", "run", params={"a": 1})
    first.log_table([{"id": "a"}], "cases.json")
    first.end("FAILED")
    second = start_run("resumed", "run", params={"a": 1, "b": 2}, run_id=first.run_id)
    second.log_table([{"id": "a"}], "cases.json")
    second.log_table([{"id": "a"}], "labels.json")

    run = read_run(second)
    assert second.run_id == first.run_id
    assert run.info.status == "RUNNING"
    assert run.data.params == {"a": "1", "b": "2"}
    assert len(json.loads(run.data.tags["mlflow.loggedArtifacts"])) == 2
    assert len(json.loads((folder_of(second, tracking_home) / "cases.json").read_text())["data"]) == 1


def test_a_run_whose_process_is_gone_is_marked_killed_by_the_next(monkeypatch: pytest.MonkeyPatch):
    tag = process.name_process()
    monkeypatch.setattr(process, "name_process", lambda: tag + "0")  # a process that never was
    killed, _ = start_run("gone", "killed"), start_run("gone", "child", parent_id="x")
    monkeypatch.setattr(process, "name_process", lambda: tag)
    alive = start_run("gone", "alive")
    start_run("gone", "next")
    assert (read_run(killed).info.status, read_run(alive).info.status) == ("KILLED", "RUNNING")


def test_run_that_the_store_does_not_know_is_opened_anew():
    tracker = start_run("unknown", "run", run_id="0" * 32)

    assert tracker.is_on
    assert tracker.run_id != "0" * 32


def test_deleted_experiment_is_restored():
    from mlflow.tracking import MlflowClient

    first = start_run("deleted", "run")
    MlflowClient(find_store()).delete_experiment(read_run(first).info.experiment_id)

    assert start_run("deleted", "run").is_on


def test_closed_port_costs_seconds_and_one_warning(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    begin = time.monotonic()
    tracker = start_run("dead", "run")
    for step in range(100):
        tracker.log_metrics({"loss": 1.0}, step)
    tracker.end()

    assert time.monotonic() - begin < 15
    assert caplog.text.count("TRACKING_LOST") == 1
    assert "secret" not in caplog.text
    assert (tracker.run_id[:6], tracker.url) == ("local-", "")


@pytest.fixture
def silent_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_server_that_never_answers_costs_seconds(monkeypatch, silent_port: int):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    begin = time.monotonic()
    tracker = start_run("silent", "run")

    assert tracker.is_spooling
    assert time.monotonic() - begin < 10


def test_store_that_is_lost_during_a_run_is_not_called_again(monkeypatch, caplog):
    calls = []

    def fail(*args: object, **kwargs: object) -> None:
        calls.append(args)
        raise OSError(28, "No space left on device")

    tracker = start_run("lost", "run")
    monkeypatch.setattr(tracker._client, "log_batch", fail)
    for step in range(5):
        tracker.log_metrics({"loss": 1.0}, step)
    tracker.log_content("x", "x.txt")

    assert (len(calls), tracker.is_spooling) == (1, True)
    assert caplog.text.count("TRACKING_LOST") == 1
    assert tracker.run_id  # so that the run can be resumed


def test_a_slow_store_costs_a_hundredth_of_the_time_and_gets_every_number(monkeypatch):
    now, sent = [0.0], []

    def crawl(run_id: str, metrics: list) -> None:
        now[0] += 5
        sent.extend(metrics)

    tracker = start_run("slow", "run")
    tracker._opened_s = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(tracker._client, "log_batch", crawl)
    for step in range(200):
        now[0] += 10
        tracker.log_metrics({"loss": 1.0}, step)
    assert 0 < now[0] - 2000 <= 0.01 * 2000 + 2 + 5  # a share, what is always spare, and one call
    assert len(sent) < 200
    tracker.end()
    assert [metric.step for metric in sent] == list(range(200))


def test_mistake_in_the_caller_is_not_hidden():
    tracker = start_run("mistake", "run")

    with pytest.raises(TypeError):
        tracker.log_metrics({"loss": "high"}, 0)  # type: ignore[dict-item]


def test_tracker_that_is_off_does_not_import_mlflow():
    code = (
        "import sys; from pathlib import Path; from medseg.tracking.store import Tracker; t = Tracker.off();"
        "t.log_metrics({'a': 1.0}, 0); t.log_artifact(Path('x')); t.log_table([{'a': 1}], 't.json'); t.end();"
        "sys.exit('mlflow' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_first_use_is_quiet_and_ends_telemetry_even_if_mlflow_was_imported_before(tmp_path: Path):
    code = (
        "import mlflow; from medseg.tracking.store import start_run; t = start_run('e', 'r'); assert t.is_on;"
        "t.end(); from mlflow.telemetry import get_telemetry_client; assert get_telemetry_client() is None"
    )
    root = str(Path(medseg.__file__).parents[1])
    environment = {**os.environ, "MEDSEG_HOME": str(tmp_path / "new"), "PYTHONPATH": root}
    for name in ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS"):  # MLflow turns its telemetry off for these
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=True,
    )

    assert (done.stdout, done.stderr) == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]  # nothing beside the tracking folder


def test_settings_of_the_user_are_kept(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    prepare_mlflow()

    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_flattened_values_are_cut_to_what_mlflow_takes():
    assert len(flatten({"a": "x" * 7000})["a"]) == MAX_VALUE


def test_flattened_names_hold_only_allowed_characters():
    assert flatten({"a@b": {1: None}}) == {"a_b.1": "null"}


def test_flattened_paths_are_hidden_in_lists_too():
    values = {"a": ["~/scans", "C:\\scans", "monai:Gibbs", 1.5], "b": Path("x"), "c": "1/3"}

    assert flatten(values) == {"a": '["<path>", "<path>", "monai:Gibbs", 1.5]', "b": "<path>", "c": "1/3"}
