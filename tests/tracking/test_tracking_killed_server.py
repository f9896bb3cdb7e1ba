"""A real MLflow server dies in the middle of a run; after a sync the store has all of it."""

import json
import shutil
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from medseg.core.files import read_json
from medseg.tracking.address import find_store
from medseg.tracking.place import find_artifacts
from medseg.tracking.replay import connect
from medseg.tracking.store import Tracker, start_run
from medseg.tracking.ui import _choose_port
from tests.mlflow_server import serving
from tests.tiny import document, medseg

SETTINGS = {"model": {"name": "unet"}, "train": {"epochs": 6}}
EPOCHS = 6


def serving_store(store: str, port: int) -> AbstractContextManager[str]:
    words = ["server", "--backend-store-uri", store, "--workers", "1", "--host", "127.0.0.1"]
    words += ["--port", str(port), "--default-artifact-root", find_artifacts().as_uri()]
    return serving([*words, "--no-serve-artifacts"], port)


def log_epochs(tracker: Tracker, epochs: range) -> None:
    for epoch in epochs:
        tracker.log_metrics({"train/loss": 1 / (epoch + 1), "val/dice": epoch / 7}, epoch)


def log_end(tracker: Tracker) -> None:
    tracker.log_metrics({"whole_cases/dice": 1 / 3})
    tracker.log_table([{"id": "a", "dice": 0.5}], "cases.json")
    tracker.end()


def read_run(run_id: str, home: Path) -> tuple[object, ...]:
    client = connect()
    run = client.get_run(run_id)
    points = {
        key: sorted((m.step, m.value) for m in client.get_metric_history(run_id, key))
        for key in run.data.metrics
    }
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("medseg.")}
    table = json.loads((home / "artifacts" / run_id / "artifacts" / "cases.json").read_text())
    return run.info.status, run.info.run_name, points, run.data.params, tags, table


def test_all_of_a_run_arrives_though_the_server_was_killed_in_its_middle(tracking_home: Path, monkeypatch):
    store, port = find_store(), _choose_port("127.0.0.1", 0)
    start_run("killed server", "warm up: makes the database").end()
    with serving_store(store, port) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        whole = start_run("killed server", "run", params=SETTINGS)
        log_epochs(whole, range(EPOCHS))
        log_end(whole)
        broken = start_run("killed server", "run", params=SETTINGS)
        log_epochs(broken, range(EPOCHS // 2))
    log_epochs(broken, range(EPOCHS // 2, EPOCHS))
    unseen = start_run("killed server", "run", params=SETTINGS)
    log_epochs(unseen, range(EPOCHS))
    log_end(broken)
    log_end(unseen)
    assert medseg("tracking", "sync", "--json").exit_code == 4
    with serving_store(store, port):
        result = medseg("tracking", "sync", "--json")
        assert result.exit_code == 0, result.stderr
        ids = [case["id"] for case in document(result)["cases"]]
        expected = read_run(whole.run_id, tracking_home)

        assert [read_run(run_id, tracking_home) for run_id in ids] == [expected, expected]
        assert broken.run_id in ids
    assert len(expected[2]["train/loss"]) == EPOCHS  # type: ignore[index]
    assert document(result)["sync"] == {
        "runs_created": 1,
        "params": 2,
        "metrics": 2 * 3 + 1 + 2 * EPOCHS + 1,
        "tags": 3,
        "artifacts": 2,
        "inputs": 0,
    }


def test_a_training_whose_server_was_killed_equals_an_undisturbed_one(
    tiny_run: Path,
    tiny_home: Path,
    tracking_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    copied = shutil.copytree(tiny_run, tmp_path / "RUN")
    for name in ("fold_0", "predictions", "evaluation", "model"):
        shutil.rmtree(copied / name)
    for name in ("tracking.json", "trust.json"):
        (copied / name).unlink(missing_ok=True)
    store, port = find_store(), _choose_port("127.0.0.1", 0)
    start_run("killed server", "warm up: makes the database").end()
    with ExitStack() as stack:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.enter_context(serving_store(store, port)))
        log_metrics = Tracker.log_metrics

        def kill_first(tracker: Tracker, values: object, step: int = 0) -> None:
            if step == 1:
                stack.close()
            log_metrics(tracker, values, step)  # type: ignore[arg-type]

        monkeypatch.setattr(Tracker, "log_metrics", kill_first)
        result = medseg("train", copied)
    assert result.exit_code == 0 and "TRACKING_LOST" in caplog.text
    with serving_store(store, port):
        assert medseg("tracking", "sync").exit_code == 0
        numbers = read_numbers(copied)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MEDSEG_HOME", str(tiny_home))
    assert numbers == read_numbers(tiny_run)
    assert {"train/loss", "val/dice", "whole_cases/dice"} <= {key for run in numbers for key in run}


def read_numbers(folder: Path) -> list[dict[str, list[tuple[int, float]]]]:
    """Return key -> (step, value) of the run of a folder and of its fold, without what a clock says."""
    client, known = connect(), read_json(folder / "tracking.json")
    return [
        {
            key: sorted((point.step, point.value) for point in client.get_metric_history(run_id, key))
            for key in client.get_run(run_id).data.metrics
            if not key.startswith("time/")
        }
        for run_id in (known["run_id"], known["folds"]["0"])
    ]


def test_sync_without_anything_to_send_is_done_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path))
    result = medseg("tracking", "sync", "--json")

    assert result.exit_code == 0
    assert (document(result)["command"], document(result)["cases"]) == ("tracking sync", [])
    assert "sent: nothing" in result.stderr
