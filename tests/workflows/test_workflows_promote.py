"""The alias `champion` moves where held-out cases show a gain, and nowhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from medseg.core.errors import ConfigError, DataError, ResourceError
from medseg.core.files import read_json, write_csv, write_json
from medseg.inference.model import SUMS, _write_sums
from medseg.tracking.address import find_store
from medseg.tracking.place import SETTINGS
from medseg.tracking.registry import Registry
from medseg.tracking.runs import OWN_ID
from medseg.tracking.spool import LOCAL
from medseg.tracking.store import start_run
from medseg.workflows.progress import Progress
from medseg.workflows.promote import measure_gain, promote, register_if_possible
from medseg.workflows.report import Report
from medseg.workflows.run_folder import RunFolder
from tests.tiny import IDS, document, medseg

MakeRun = Callable[..., RunFolder]
LOW, HIGH = (0.5, 0.6, 0.5, 0.6, 0.5, 0.6), (0.8, 0.85, 0.8, 0.9, 0.8, 0.9)
PATIENTS = {name: name for name in IDS}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One database for the module: it takes seconds to make."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in (*SETTINGS, "MLFLOW_TRACKING_URI", "_MLFLOW_SERVER_ARTIFACT_ROOT"):
            patch.setenv(name, "")
            patch.delenv(name)
        patch.setenv("MEDSEG_HOME", str(folder))
        yield folder


@pytest.fixture
def make_run(home: Path, tiny_run: Path, tmp_path: Path, request: pytest.FixtureRequest) -> MakeRun:
    """Make a finished, tracked RUN with this Dice of six patients; each test has a pipeline of its own."""
    pipeline = request.node.name.split("[")[0][:80].lower()

    def make(name: str, dice: Sequence[float], *, label: str = "1", is_tracked: bool = True) -> RunFolder:
        root = tmp_path / name
        root.mkdir()
        for part in ("model", "check", "fold_0"):
            shutil.copytree(tiny_run / part, root / part)
        (root / "store").symlink_to(tiny_run / "store")
        text = (tiny_run / "config.yaml").read_text().replace("pipeline: phantom_ct", f"pipeline: {pipeline}")
        text = text.replace("name: phantom_ct", f"name: {pipeline}")
        (root / "config.yaml").write_text(text)
        write_json(root / "splits.json", {"test": [], "folds": [list(IDS), []]})
        rows = [{"id": case, "label": label, "dice": value} for case, value in zip(IDS, dice, strict=True)]
        write_csv(root / "evaluation" / "cases.csv", rows)
        set_overlap(root / "model", 0.5 + sum(map(ord, name)) / 10_000)
        if is_tracked:
            tracker = start_run(pipeline, name)
            tracker.end()
            write_json(root / "tracking.json", {"run_id": tracker.run_id})
        return RunFolder(root)

    return make


def set_overlap(model: Path, overlap: float) -> None:
    """Make another model of it, with another hash."""
    tree = read_json(model / "model.json")
    write_json(model / "model.json", tree | {"infer": tree["infer"] | {"overlap": overlap}})
    (model / SUMS).unlink()
    _write_sums(model)


def decide(run: RunFolder, **options: Any) -> dict[str, Any]:
    report = Report("promote")
    promote(run, progress=Progress(), report=report, **options)
    return dict(report.extra["promotion"])


def read_version(name: str, number: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(find_store(), find_store()).get_model_version(name, number)


def champion_of(run: RunFolder) -> str:
    found = Registry().find_champion(run.load_config().name)
    assert found is not None
    return found.number


def test_the_first_model_needs_no_evidence(make_run):
    run = make_run("a", LOW)
    found = decide(run)
    assert (found["decision"], found["version"], found["is_champion"]) == ("first", "1", True)
    assert champion_of(run) == "1"


def test_a_better_model_becomes_the_champion_and_its_version_says_why(make_run):
    decide(make_run("a", LOW))
    run = make_run("b", HIGH)
    found = decide(run)
    assert (found["decision"], found["against"], champion_of(run)) == ("better", "1", "2")
    assert found["gain"]["low"] > 0 and found["gain"]["mean"] == round((5.05 - 3.3) / 6, 6)
    tags = read_version(run.load_config().name, "2").tags
    assert (tags["medseg.decision"], tags["medseg.against"]) == ("better", "1")
    assert json.loads(tags["medseg.gain"])["low"] == found["gain"]["low"]


def test_a_model_that_is_not_better_is_registered_and_the_champion_stays(make_run):
    decide(make_run("a", HIGH))
    run = make_run("b", LOW)
    with pytest.raises(DataError, match="Dice, 95 % interval -0") as caught:
        decide(run)
    assert caught.value.code == "NOT_BETTER" and champion_of(run) == "1"
    assert read_version(run.load_config().name, "2").tags["medseg.decision"] == "not_better"


def test_an_equal_model_is_not_better(make_run):
    decide(make_run("a", HIGH))
    with pytest.raises(DataError) as caught:
        decide(make_run("b", HIGH))
    assert caught.value.code == "NOT_BETTER"


def test_force_moves_the_alias_and_keeps_the_reason(make_run):
    decide(make_run("a", HIGH))
    run = make_run("b", LOW)
    assert decide(run, force="new scanner")["decision"] == "forced" and champion_of(run) == "2"
    assert read_version(run.load_config().name, "2").tags["medseg.reason"] == "new scanner"


def test_force_without_a_reason_is_refused(make_run):
    with pytest.raises(ConfigError, match="reason"):
        decide(make_run("a", LOW), force=" ")


def test_the_same_model_again_is_the_same_version_and_stays_champion(make_run):
    run = make_run("a", LOW)
    decide(run)
    assert decide(run)["decision"] == "unchanged" and champion_of(run) == "1"


def test_a_run_trained_further_gets_a_second_version_and_the_first_keeps_its_files(make_run, home):
    run = make_run("a", LOW)
    decide(run)
    set_overlap(run.model, 0.25)
    with pytest.raises(DataError):
        decide(run)
    sources = [Path(read_version(run.load_config().name, n).source.removeprefix("file://")) for n in "12"]
    overlaps = [read_json(s / "artifacts/model/model.json")["infer"]["overlap"] for s in sources]
    assert overlaps == [0.5097, 0.25]


def test_other_labels_are_refused_unless_forced(make_run):
    decide(make_run("a", LOW))
    run = make_run("b", HIGH, label="2")
    with pytest.raises(ConfigError) as caught:
        decide(run)
    assert caught.value.code == "LABELS_DIFFER"
    assert decide(run, force="relabelled")["gain"] is None and champion_of(run) == "2"


def test_a_champion_whose_cases_are_lost_cannot_be_compared(make_run, home):
    first = make_run("a", LOW)
    decide(first)
    run_id = read_json(first.root / "tracking.json")["run_id"]
    shutil.rmtree(home / "artifacts" / run_id / "artifacts" / "held_out")
    with pytest.raises(DataError) as caught:
        decide(make_run("b", HIGH))
    assert caught.value.code == "TOO_FEW_SHARED"


def test_a_run_that_is_not_in_the_store_is_refused(make_run):
    run = make_run("a", LOW, is_tracked=False)
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            decide(run)
        assert caught.value.code == "RUN_UNTRACKED"
        write_json(run.root / "tracking.json", {"run_id": "0" * 32})


def test_only_the_owner_can_read_what_is_uploaded_and_no_patient_is_in_it(make_run, home):
    run = make_run("a", LOW)
    decide(run)
    root = home / "artifacts" / read_json(run.root / "tracking.json")["run_id"]
    assert {path.stat().st_mode & 0o777 for path in root.rglob("*")} == {0o600, 0o700}
    [table] = root.rglob("held_out/*.json")
    assert read_json(table).keys() == set(IDS) and "patient" not in table.read_text()


def test_a_registered_model_is_loaded_by_its_alias(make_run, monkeypatch):
    run = make_run("a", LOW)
    decide(run)
    import mlflow.pyfunc

    monkeypatch.setenv("MLFLOW_TRACKING_URI", find_store())
    loaded = mlflow.pyfunc.load_model(f"models:/{run.load_config().name}@champion")
    assert loaded.predict([{"nifti": "?"}])[0]["mask"] is None


def test_the_command_prints_the_decision_and_ends_with_3_where_no_gain_is_shown(make_run):
    first = medseg("promote", make_run("a", HIGH).root, "--json")
    assert first.exit_code == 0 and document(first)["promotion"]["decision"] == "first"
    second = medseg("promote", make_run("b", LOW).root, "--json")
    tree = document(second)
    assert (second.exit_code, tree["exit_code"], tree["error"]["code"]) == (3, 3, "NOT_BETTER")
    assert tree["promotion"]["is_champion"] is False and tree["promotion"]["gain"]["n_patients"] == 6
    assert tree["mlflow"]["url"].endswith("versions/2?workflowType=machine_learning")


def test_the_command_makes_no_folder_of_a_wrong_path(home, tmp_path):
    assert medseg("promote", tmp_path / "nowhere").exit_code == 2
    assert not (tmp_path / "nowhere").exists()


def test_a_dead_store_fails_promote_and_only_warns_at_the_end_of_a_run(make_run, monkeypatch, caplog):
    run = make_run("a", LOW)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(ResourceError) as caught:
        decide(run)
    assert caught.value.code == "REGISTRY_LOST" and "secret" not in caught.value.message
    assert register_if_possible(run) is None
    assert "REGISTRY_LOST" in caplog.text and "secret" not in caplog.text


def test_the_end_of_a_run_registers_without_a_champion(make_run):
    run = make_run("a", LOW)
    made = register_if_possible(run)
    assert made is not None and made.number == "1"
    assert Registry().find_champion(made.name) is None


def test_a_run_that_was_synced_is_found_by_the_id_it_had_before(make_run, home):
    run = make_run("a", LOW)
    ours = LOCAL + "0" * 32
    known = read_json(run.root / "tracking.json")["run_id"]
    MlflowClient(find_store()).set_tag(known, OWN_ID, ours)
    write_json(run.root / "tracking.json", {"run_id": ours})
    assert Registry().find_run(ours) == known
    assert decide(run)["decision"] == "first"


@pytest.mark.parametrize("error", [ConfigError("no scores"), OSError(28, "No space left on device")])
def test_what_hinders_registering_does_not_fail_a_finished_run(make_run, monkeypatch, caplog, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("medseg.workflows.promote.register", fail)
    assert register_if_possible(make_run("a", LOW)) is None
    assert "REGISTRY_LOST" in caplog.text


def row(dice: dict[str, float | None], reference: str = "r") -> dict[str, Any]:
    return {"reference": reference, "dice": dice}


def test_an_empty_prediction_of_an_empty_label_counts_one_and_labels_nobody_holds_nothing():
    own, other = row({"1": 0.5, "2": None, "3": None}), row({"1": 0.4, "2": 0.0, "3": None})
    gain = measure_gain({"a": own}, {"a": other}, PATIENTS | {"a": "p"})
    assert gain is not None and gain.mean == pytest.approx((0.1 + 1.0) / 2)


def test_a_case_with_another_reference_is_another_case():
    assert measure_gain({"a": row({"1": 1.0})}, {"a": row({"1": 0.5}, "s")}, {"a": "p"}) is None


def test_a_case_that_only_one_model_held_out_does_not_count():
    own = {name: row({"1": 0.9}) for name in "ab"}
    gain = measure_gain(own, {"b": row({"1": 0.5})}, {"a": "p", "b": "q"})
    assert gain is not None and gain.n_cases == 1


def test_cases_without_any_label_show_nothing():
    assert measure_gain({"a": row({"1": None})}, {"a": row({"1": None})}, {"a": "p"}) is None


def test_five_patients_are_too_few_whatever_the_gain(make_run, monkeypatch):
    decide(make_run("a", LOW))
    five = RunFolder.patients(make_run("b", HIGH)) | {"subject-f7": "subject-e7"}
    monkeypatch.setattr(RunFolder, "patients", lambda run: five)
    with pytest.raises(DataError, match="5 patients are shared") as caught:
        decide(make_run("c", HIGH))
    assert caught.value.code == "TOO_FEW_SHARED"


def test_what_a_deleted_run_held_is_gone(home):
    assert Registry().read_table("0" * 32, "held_out/a.json") == {}


@pytest.mark.parametrize("call", ["create_registered_model", "get_model_version_by_alias", "list_artifacts"])
def test_a_store_that_fails_on_the_way_is_lost(call, make_run, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    decide(make_run("a", LOW))
    run = make_run("b", HIGH)

    def fail(*arguments: object) -> None:
        raise MlflowException("the database is locked")

    monkeypatch.setattr(MlflowClient, call, fail)
    with pytest.raises(ResourceError) as caught:
        decide(run)
    assert caught.value.code == "REGISTRY_LOST"
