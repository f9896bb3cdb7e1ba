import json
import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from medseg.core.errors import DataError, ResourceError
from medseg.tracking import spool as spools
from medseg.tracking.replay import connect, merge_headers
from medseg.tracking.spool import LOCAL, find_folder, list_spools
from medseg.tracking.store import Tracker, start_run
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.tracking_sync import sync

OWN = ("medseg.id", "medseg.process", "medseg.opened_ms")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63f8cfc0f01f00050001ff89993d1d0000000049454e44ae426082"
)


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch):
    """Make the store unreachable while the block runs."""

    @contextmanager
    def kill():
        with monkeypatch.context() as patch:

            def fail(*args: object) -> None:
                raise OSError(111, "refused")

            patch.setattr("medseg.tracking.store.open_run", fail)
            yield

    return kill


def lose(tracker: Tracker) -> Tracker:
    """Lose the store at the next call."""

    class Dead:
        def __getattr__(self, name: str):
            raise OSError(111, "refused")

    tracker._client = Dead()
    return tracker


def fill(tracker: Tracker) -> None:
    for epoch in range(3):
        tracker.log_metrics({"train/loss": 1 / (epoch + 1), "val/dice": epoch / 4}, epoch)
    tracker.log_table([{"id": "a", "dice": 0.5}], "cases.json")
    tracker.log_content(b"note", "notes/note.txt")
    tracker.log_image(PNG, "held out", 2)
    tracker.log_dataset("cohort", "0123", {"cases": 3}, "training")


def run_sync(**options: bool) -> Report:
    report = Report("tracking sync")
    sync(progress=Progress(), report=report, **options)
    return report


def state(run_id: str) -> dict:
    """What the store has of a run, without what differs between two of a kind."""
    client = connect()
    run = client.get_run(run_id)
    history = {
        key: [(m.step, m.value) for m in client.get_metric_history(run_id, key)] for key in run.data.metrics
    }
    tags = {k: v for k, v in run.data.tags.items() if k not in OWN}
    inputs = [(i.dataset.name, i.dataset.profile, i.tags[0].value) for i in run.inputs.dataset_inputs]
    files = sorted(
        (file.path.split("timestamp")[0], file.file_size)
        for folder in (None, "notes", "images")
        for file in client.list_artifacts(run_id, folder)
    )
    return {
        "run": (run.info.run_name, run.info.status, run.data.params, tags, inputs),
        "history": history,
        "files": files,
    }


@pytest.fixture(scope="module")
def undisturbed(tracking_home: Path) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEG_HOME", str(tracking_home))
        tracker = start_run("whole", "run", params={"a": 1}, tags={"t": "x"})
        fill(tracker)
        tracker.end()
        return state(tracker.run_id)


def test_run_that_lost_its_store_equals_an_undisturbed_one_after_sync(undisturbed):
    tracker = lose(start_run("lost half", "run", params={"a": 1}, tags={"t": "x"}))
    fill(tracker)
    tracker.end()
    report = run_sync()

    assert state(tracker.run_id) == undisturbed
    assert report.extra["sync"] == Counter(metrics=6, artifacts=4, tags=2, inputs=1, runs_created=0, params=0)
    assert [case.id for case in report.cases] == [tracker.run_id]
    assert list(find_folder().iterdir()) == []


def test_run_that_the_store_never_saw_is_created_and_its_folder_learns_the_id(
    undisturbed, dead, tmp_path: Path
):
    record = tmp_path / "tracking.json"
    with dead():
        tracker = start_run("never seen", "run", params={"a": 1}, tags={"t": "x"}, record=record)
        record.write_text(json.dumps({"run_id": tracker.run_id, "folds": {}}))
        fill(tracker)
        tracker.end()
    assert tracker.run_id.startswith(LOCAL)
    report = run_sync()

    known = json.loads(record.read_text())
    assert known == {"run_id": report.cases[0].id, "folds": {}}
    assert state(known["run_id"]) == undisturbed
    assert (report.extra["sync"]["runs_created"], report.extra["sync"]["params"]) == (1, 1)


def test_sync_that_was_killed_anywhere_and_runs_again_stores_everything_once(
    undisturbed, dead, monkeypatch: pytest.MonkeyPatch
):
    from mlflow.tracking import MlflowClient

    with dead():
        tracker = start_run("killed", "run", params={"a": 1}, tags={"t": "x"})
        fill(tracker)
        tracker.end()
    for call in ("log_batch", "set_tag", "log_artifact", "log_inputs", "set_terminated"):
        with monkeypatch.context() as patch:
            real = getattr(MlflowClient, call)

            def die(self: object, *args: object, real=real, **kwargs: object) -> None:
                real(self, *args, **kwargs)
                raise KeyboardInterrupt

            patch.setattr(MlflowClient, call, die)
            with pytest.raises(KeyboardInterrupt):
                run_sync()
    report = run_sync()

    assert state(report.cases[0].id) == undisturbed
    assert len(connect().search_runs([connect().get_experiment_by_name("killed").experiment_id])) == 1


def test_child_of_a_run_in_the_spool_goes_there_and_below_it_afterwards(dead):
    with dead():
        parent = start_run("family", "run")
    child = start_run("family", "fold 0", parent_id=parent.run_id)
    assert child.is_spooling
    child.end()
    parent.end()
    first, second = run_sync().cases

    assert connect().get_run(second.id).data.tags["mlflow.parentRunId"] == first.id


def test_run_from_the_spool_that_goes_on_in_the_store_keeps_its_live_end(dead):
    with dead():
        first = start_run("goes on", "run")
        first.log_metrics({"loss": 1.0}, 0)
        first.end("FAILED")
    second = start_run("goes on", "run", run_id=first.run_id)
    assert not second.run_id.startswith(LOCAL)
    second.log_metrics({"loss": 0.5}, 1)
    second.end()
    report = run_sync()

    assert report.cases[0].id == second.run_id
    assert connect().get_run(second.run_id).info.status == "FINISHED"
    assert sorted(m.step for m in connect().get_metric_history(second.run_id, "loss")) == [0, 1]


def test_child_waits_for_the_run_above_it_to_be_sent(dead):
    with dead():
        parent = start_run("waits", "run")
        child = start_run("waits", "fold 0", parent_id=parent.run_id)
        child.end()
        parent.log_metrics({"x": 1.0})
    assert [case.status for case in run_sync().cases] == ["skipped", "skipped"]
    parent.end()
    above, below = (case.id for case in run_sync().cases)
    assert connect().get_run(below).data.tags["mlflow.parentRunId"] == above


def test_child_of_a_run_whose_spool_was_removed_is_below_none(dead):
    with dead():
        parent = start_run("removed", "run")
        parent.end()
        start_run("removed", "fold 0", parent_id=parent.run_id).end()
    (find_folder() / f"{parent.run_id}.jsonl").unlink()
    (below,) = (case.id for case in run_sync().cases)
    assert "mlflow.parentRunId" not in connect().get_run(below).data.tags


def test_what_a_later_session_stored_is_not_replaced_by_what_an_earlier_one_spooled(dead, monkeypatch):
    clock = iter(range(1_000, 100_000))
    for module in ("spool", "store"):
        monkeypatch.setattr(f"medseg.tracking.{module}.now_ms", lambda: next(clock))
    with dead():
        first = start_run("later", "run")
        first.log_content("old", "note.txt")
        first.log_content("old alone", "alone.txt")
        first.set_tags({"medseg.model": "old", "medseg.alone": "old"})
        first.end()
    later = start_run("later", "run", run_id=first.run_id)
    later.log_content("new", "note.txt")
    later.set_tags({"medseg.model": "new"})
    later.end()
    run_sync()
    client = connect()
    tags = client.get_run(later.run_id).data.tags
    assert (tags["medseg.model"], tags["medseg.alone"]) == ("new", "old")
    texts = [
        Path(client.download_artifacts(later.run_id, f"{name}.txt")).read_text() for name in ("note", "alone")
    ]
    assert texts == ["new", "old alone"]


def test_what_the_store_refuses_hinders_nothing_else(dead, monkeypatch):
    with dead():
        tracker = start_run("refuses", "run")
        fill(tracker)
        tracker.end()
    send = MlflowClient.log_artifact

    def refuse(self, run_id, path, folder=None):
        if path.endswith("cases.json"):
            raise MlflowException("413")
        send(self, run_id, path, folder)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", refuse)
        (case,) = run_sync().cases
    assert case.code == "TRACKING_REFUSED"
    (run,) = connect().search_runs([connect().get_experiment_by_name("refuses").experiment_id])
    assert run.info.status == "FINISHED" and run.data.metrics["val/dice"] == 0.5
    assert {file.path for file in connect().list_artifacts(run.info.run_id)} == {"notes", "images"}
    assert [case.status for case in run_sync().cases] == ["done"]  # later it takes the rest
    assert "cases.json" in {file.path for file in connect().list_artifacts(run.info.run_id)}


def test_session_that_begins_while_a_sync_ends_keeps_its_copies(dead, monkeypatch):
    with dead():
        first = start_run("meets", "run")
        first.log_content("one", "one.txt")
        first.end()
    remove = Path.unlink

    def begin(path, **options):
        remove(path, **options)
        if path.suffix == ".jsonl":
            monkeypatch.setattr(Path, "unlink", remove)
            with dead():
                second = start_run("meets", "run", run_id=first.run_id)
                second.log_content("two", "two.txt")
                second.end()

    monkeypatch.setattr(Path, "unlink", begin)
    assert [case.status for case in run_sync().cases] == ["done"]
    (case,) = run_sync().cases
    assert case.status == "done"
    assert {file.path for file in connect().list_artifacts(case.id)} == {"one.txt", "two.txt"}


def test_session_that_opened_a_spool_which_was_removed_takes_a_new_one(dead, monkeypatch):
    with dead():
        first = start_run("removes", "run")
        first.end()
    path = find_folder() / f"{first.run_id}.jsonl"
    lock = spools._lock

    def remove_first(file: int) -> bool:
        monkeypatch.setattr(spools, "_lock", lock)
        path.unlink()
        return lock(file)

    monkeypatch.setattr(spools, "_lock", remove_first)
    with dead():
        start_run("removes", "run", run_id=first.run_id).end()
    assert list_spools() == [path]


def test_copies_without_records_are_swept(dead):
    folder = find_folder() / f"{LOCAL}{'0' * 32}"
    (folder / "token").mkdir(parents=True)
    (folder / "token" / "note.txt").touch()
    run_sync()
    assert not folder.exists()


def test_spool_that_another_sync_has_sent_is_left_alone(dead, monkeypatch):
    with dead():
        start_run("twice", "run").end()
    spools_then = list_spools()
    run_sync()
    monkeypatch.setattr("medseg.workflows.tracking_sync.list_spools", lambda: spools_then)
    assert [case.status for case in run_sync().cases] == ["skipped"]


@pytest.mark.parametrize("run_id", ["../../evil", "a' or tags.b = 'c", "", "0" * 31])
def test_what_is_no_id_is_none(dead, run_id):
    with dead():
        tracker = start_run("no id", "run", run_id=run_id)
        tracker.end()
    assert [path.stem for path in list_spools()] == [tracker.run_id]
    assert tracker.run_id.startswith(LOCAL)


def test_two_sessions_without_a_store_become_one_run(dead):
    with dead():
        first = start_run("twice", "run", params={"a": 1})
        first.log_metrics({"loss": 1.0}, 0)
        first.end("FAILED")
        second = start_run("twice", "run", params={"a": 2, "b": 3}, run_id=first.run_id)
        second.log_metrics({"loss": 0.5}, 1)
        second.end()
    report = run_sync()

    run = connect().get_run(report.cases[0].id)
    assert (run.data.params, run.info.status) == ({"a": "1", "b": "3"}, "FINISHED")
    assert report.extra["sync"]["metrics"] == 2


def test_tables_that_a_later_session_logged_stay_known():
    first = lose(start_run("tables", "run"))
    first.log_table([{"id": "a"}], "early.json")
    first.end()
    second = start_run("tables", "run", run_id=first.run_id)
    second.log_table([{"id": "a"}], "late.json")
    second.end()
    run_sync()

    tables = json.loads(connect().get_run(first.run_id).data.tags["mlflow.loggedArtifacts"])
    assert [table["path"] for table in tables] == ["late.json", "early.json"]


def test_run_whose_process_was_killed_is_killed_after_sync(dead):
    with dead():
        tracker = start_run("killed run", "run")
        tracker.log_metrics({"loss": 1.0}, 0)
    os.close(tracker._client.spool._file)  # as the system does

    assert connect().get_run(run_sync().cases[0].id).info.status == "KILLED"


def test_run_at_work_is_left_alone(dead):
    with dead():
        tracker = start_run("at work", "run")
    report = run_sync()

    assert [(case.status, case.id) for case in report.cases] == [("skipped", tracker.run_id)]
    assert len(list_spools()) == 1
    tracker.end()


def test_second_process_of_a_run_takes_a_spool_of_its_own(dead):
    with dead():
        first = start_run("two", "run")
        second = start_run("two", "run", run_id=first.run_id)

    assert [path.name for path in list_spools()] == [f"{first.run_id}.jsonl", f"{first.run_id}.1.jsonl"]
    first.end()
    second.end()


def test_only_the_owner_can_read_the_spool(dead):
    with dead():
        tracker = start_run("modes of spool", "run")
        fill(tracker)
        tracker.end()

    own = [find_folder(), *find_folder().rglob("*")]
    assert len(own) == 3 + 2 * 4
    assert {path: path.stat().st_mode & 0o77 for path in own} == dict.fromkeys(own, 0)


def test_synced_artifacts_of_a_local_store_are_the_owners(dead, tracking_home: Path):
    with dead():
        tracker = start_run("modes after sync", "run")
        tracker.log_content("x", "notes/x.txt")
        tracker.end()
    run_id = run_sync().cases[0].id

    own = list((tracking_home / "artifacts" / run_id).rglob("*"))
    assert len(own) == 3
    assert {path: path.stat().st_mode & 0o77 for path in own} == dict.fromkeys(own, 0)


def test_line_cut_by_a_kill_is_told_and_costs_only_itself(dead):
    with dead():
        tracker = start_run("cut", "run")
        tracker.log_metrics({"loss": 1.0}, 0)
        tracker.end()
        path = list_spools()[0]
        path.write_text(path.read_text()[:-4])
        start_run("cut", "run", run_id=tracker.run_id).end()
    report = run_sync()

    assert report.cases[0].warnings == [("SPOOL_CUT", "1 lines were cut short by a kill and are lost")]
    assert connect().get_run(report.cases[0].id).data.metrics == {"loss": 1.0}


def test_what_is_larger_than_the_spool_may_be_is_left_out_with_one_warning(dead, monkeypatch, caplog):
    with dead():
        tracker = start_run("large", "run")
        tracker.log_metrics({"loss": 1.0}, 0)
        tracker.log_content(b"kept", "a.bin")
        monkeypatch.setattr(spools, "LIMIT_BYTES", 8000)
        tracker.log_content(bytes(9000), "b.bin")
        tracker.log_content(bytes(9000), "c.bin")
        tracker.log_metrics({"loss": 0.5}, 1)
        tracker.end()
    report = run_sync()

    assert caplog.text.count("SPOOL_FULL") == 1
    assert (report.extra["sync"]["artifacts"], report.extra["sync"]["metrics"]) == (1, 2)


def test_how_a_run_ended_is_kept_however_full_the_spool_is(dead, monkeypatch):
    with dead():
        tracker = start_run("full", "run")
        monkeypatch.setattr(spools, "LIMIT_BYTES", 0)
        tracker.end()
    (case,) = run_sync().cases
    assert connect().get_run(case.id).info.status == "FINISHED"


def test_spool_that_cannot_be_written_ends_tracking_and_not_the_work(dead, monkeypatch, caplog):
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spools, "_open_free", fail)
    with dead():
        tracker = start_run("disk full", "run")
    tracker.log_metrics({"loss": 1.0}, 0)

    assert not tracker.is_on
    assert caplog.text.count("TRACKING_LOST") == 2
    assert "tracking sync" in caplog.text.splitlines()[0]
    assert "tracking sync" not in caplog.text.splitlines()[1]


def test_store_that_does_not_answer_is_unreachable_and_keeps_the_spool(dead, monkeypatch):
    with dead():
        start_run("unreachable", "run").end()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")

    with pytest.raises(ResourceError) as error:
        run_sync()
    assert (error.value.code, error.value.exit_code) == ("TRACKING_UNREACHABLE", 4)
    assert "secret" not in str(error.value)
    assert len(list_spools()) == 1


def test_store_that_dies_during_a_sync_is_unreachable_and_keeps_the_spool(dead, monkeypatch):
    from mlflow.tracking import MlflowClient

    with dead():
        start_run("dies", "run").end()

    def die(*args: object, **kwargs: object) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        raise OSError(104, "reset")

    monkeypatch.setattr(MlflowClient, "set_terminated", die)
    with pytest.raises(ResourceError) as error:
        run_sync()
    assert error.value.code == "TRACKING_UNREACHABLE"
    assert len(list_spools()) == 1


def test_nothing_to_send_asks_no_store(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    assert run_sync().cases == []


def test_run_meant_for_another_store_goes_to_this_one_only_on_request(dead, monkeypatch):
    with monkeypatch.context() as patch, dead():
        patch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@elsewhere:5000")
        start_run("elsewhere", "run").end()
    refused = run_sync().cases[0]

    assert (refused.code, refused.status) == ("TRACKING_OTHER_STORE", "rejected")
    assert "http://elsewhere:5000" in (refused.message or "")
    assert run_sync(is_moved=True).cases[0].status == "done"


def test_run_that_was_deleted_is_not_made_anew():
    tracker = lose(start_run("deleted run", "run"))
    tracker.end()
    connect().delete_run(tracker.run_id)

    assert run_sync().cases[0].code == "TRACKING_UNKNOWN_RUN"
    assert len(list_spools()) == 1


def test_value_that_the_store_refuses_is_the_fault_of_one_run(dead):
    with dead():
        bad = start_run("refused", "run")
        bad.log_content("x", "../x.txt")
        bad.end()
        start_run("refused", "run").end()

    assert [case.code for case in run_sync().cases] == ["TRACKING_REFUSED", None]


def test_spool_without_a_header_is_damaged():
    with pytest.raises(DataError) as error:
        merge_headers([{"kind": "metrics", "points": []}])
    assert error.value.code == "SPOOL_DAMAGED"


def test_spool_of_one_cut_line_is_damaged_and_hinders_no_other(dead):
    with dead():
        start_run("beside", "run").end()
    (find_folder() / "local-0.jsonl").write_text('{"kind": "ru')

    assert [case.code for case in run_sync().cases] == ["SPOOL_DAMAGED", None]


def test_call_that_the_spool_cannot_keep_is_a_mistake_and_not_a_lost_store(dead):
    with dead():
        tracker = start_run("unknown call", "run")

    with pytest.raises(AttributeError):
        tracker._client.delete_run(tracker.run_id)
    tracker.end()
