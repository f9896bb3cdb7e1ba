"""What MLflow holds of a RUN: its run, and a run below it per fold."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.core.files import read_json, write_json
from medseg.data.store import StoredCase
from medseg.metrics import Scores, evaluate_case
from medseg.metrics.chosen import choose_metrics
from medseg.tracking.address import find_store
from medseg.tracking.place import prepare_mlflow
from medseg.tracking.store import Tracker, find_run
from medseg.workflows.look import Look
from medseg.workflows.report import CaseResult
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.sidecar import find_model
from medseg.workflows.tracked import closing, word_scores
from medseg.workflows.tracked_evaluate import pick_worst
from medseg.workflows.tracked_infer import describe_case, describe_trust
from tests.tiny import IDS, document, medseg

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def client(tiny_run: Path, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MEDSEG_HOME", str(tiny_home))
    prepare_mlflow()
    from mlflow.tracking import MlflowClient

    return MlflowClient(find_store())


@pytest.fixture
def parent(client: Any, tiny_run: Path) -> Any:
    return client.get_run(read_json(tiny_run / "tracking.json")["run_id"])


@pytest.fixture
def fold(client: Any, tiny_run: Path) -> Any:
    return client.get_run(read_json(tiny_run / "tracking.json")["folds"]["0"])


def test_the_run_of_a_fold_lies_below_that_of_its_folder(parent: Any, fold: Any):
    assert fold.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.data.tags["medseg.kind"], fold.data.tags["medseg.kind"]) == ("run", "fold")
    assert {parent.info.status, fold.info.status} == {"FINISHED"}


def test_epochs_are_with_the_fold_and_whole_cases_with_the_folder(parent: Any, fold: Any):
    assert {"train/loss", "val/dice"} <= fold.data.metrics.keys()
    assert "whole_cases/dice" in parent.data.metrics and "train/loss" not in parent.data.metrics


def test_data_are_named_by_hash_and_count(parent: Any, fold: Any, tiny_run: Path):
    splits = RunFolder(tiny_run).load_splits()
    cohort = parent.inputs.dataset_inputs[0].dataset
    profile = json.loads(cohort.profile)
    assert profile["cases"] == sum(map(len, splits.folds)) and len(profile["split"]) == 64
    sides = {one.tags[0].value: one.dataset for one in fold.inputs.dataset_inputs}
    assert {side: json.loads(data.profile)["cases"] for side, data in sides.items()} == {
        "training": len(splits.training(0)),
        "validation": len(splits.validation(0)),
    }
    assert len({cohort.digest, *(data.digest for data in sides.values())}) == 3


def test_no_case_is_named_in_inputs_params_or_tags(parent: Any, fold: Any):
    said = str([run.to_dictionary() for run in (parent, fold)])
    assert not [name for name in IDS if name in said]


def test_a_held_out_case_is_shown_from_step_0_on(client: Any, fold: Any, tiny_home: Path):
    names = [Path(one.path).name for one in client.list_artifacts(fold.info.run_id, "images")]
    shown = sorted(int(name.split("+")[2]) for name in names if name.endswith(".png"))
    validated = [metric.step for metric in client.get_metric_history(fold.info.run_id, "val/dice")]
    assert shown == [0, *validated]  # MLflow's slider begins at 0, whatever there is to show
    paths = list((tiny_home / "artifacts" / fold.info.run_id).rglob("images/*"))
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}


def test_the_model_is_registered_and_not_in_use_before_it_is_promoted(client: Any, parent: Any):
    versions = client.search_model_versions("name = 'phantom_ct'")
    assert [(one.run_id, one.aliases) for one in versions] == [(parent.info.run_id, [])]


def test_the_page_of_the_run_lies_beside_its_pictures(
    client: Any, parent: Any, tiny_run: Path, tiny_home: Path
):
    names = {one.path for one in client.list_artifacts(parent.info.run_id)}
    assert {"review.html", "overlays", "plots"} <= names
    stored = tiny_home / "artifacts" / parent.info.run_id / "artifacts" / "review.html"
    assert stored.read_bytes() == (tiny_run / "review.html").read_bytes()


def test_versions_can_be_installed_again(client: Any, parent: Any, tmp_path: Path):
    text = Path(client.download_artifacts(parent.info.run_id, "environment.txt", str(tmp_path))).read_text()
    assert f"\ntorch=={torch.__version__}\n" in text and "/" not in text


def test_the_card_shows_few_scores_with_their_intervals(tiny_run: Path):
    card = (tiny_run / "model/MODEL_CARD.md").read_text()
    table = card.partition("## Scores\n\n")[2].partition("\n\n")[0].splitlines()
    head = "| label | name | n | n_missed | n_spurious | dice | iou | hd95_mm | nsd | volume_error_ml |"
    assert table[0] == head and "{" not in "".join(table)


def test_a_score_of_the_card_has_its_interval_where_there_is_one():
    row = {"name": "organ", "n": 9, "n_missed": 1, "n_spurious": 0, "dice": 0.95123, "nsd": None, "iou": 0.5}
    row["ci95"] = {"dice": [0.9, 0.98764], "nsd": None, "iou": None}
    shown = word_scores("1", row)
    assert (shown["dice"], shown["iou"], shown["nsd"]) == ("0.9512 [0.9, 0.9876]", 0.5, None)


# ---- how a run ends -------------------------------------------------------------------------------


class Recorder(Tracker):
    ended = ""

    def end(self, status: str = "") -> None:
        self.ended = status


def test_a_run_that_ends_well_is_finished():
    with closing(Recorder()) as tracker:
        pass
    assert tracker.ended == "FINISHED"


def test_a_run_that_raises_has_failed():
    tracker = Recorder()
    with pytest.raises(ValueError, match="bad"), closing(tracker):
        raise ValueError("bad")
    assert tracker.ended == "FAILED"


def test_a_run_that_is_told_to_end_was_killed():
    tracker = Recorder()
    with pytest.raises(KeyboardInterrupt), closing(tracker):
        signal.raise_signal(signal.SIGTERM)
    assert tracker.ended == "KILLED"


# ---- the case that is looked at -------------------------------------------------------------------


def test_what_was_drawn_is_not_drawn_again(tiny_run: Path):
    folder = RunFolder(tiny_run)
    case = folder.case(folder.load_splits().validation(0)[0])
    look = Look(folder.load_config())
    assert look.draw((1.0, 1.0, 1.0)) is None
    look.note(case, one_hot(case))
    drawn = look.draw((1.5, 1.5, 3.0))
    assert drawn is not None and drawn.startswith(b"\x89PNG") and look.draw((1.0, 1.0, 1.0)) is None


def test_regions_are_painted_in_their_order(tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    folder = RunFolder(tiny_run)
    case = folder.case(folder.load_splits().validation(0)[0])
    drawn: list[Any] = []
    monkeypatch.setattr("medseg.workflows.look.draw_overlay", lambda *a, **k: drawn.append(a[3]) or b"")
    monkeypatch.setattr("medseg.workflows.look.region_paints", lambda data: [1, 2])
    look = Look(folder.load_config())
    logits = torch.full((2, *case.label.shape), -1.0)
    logits[0, 0, 0, :2], logits[1, 0, 0, 1] = 1.0, 1.0
    look.note(case, logits)
    look.draw((1.0, 1.0, 1.0))
    assert drawn[0][0, 0, :3].tolist() == [1, 2, 0] and drawn[0].sum() == 3


def one_hot(case: StoredCase) -> torch.Tensor:
    label = torch.from_numpy(np.asarray(case.label[:]).astype(np.int64)).clamp(max=2)
    return torch.nn.functional.one_hot(label, 3).movedim(-1, 0).float()


# ---- infer ----------------------------------------------------------------------------------------


def test_an_infer_run_lies_below_the_run_that_made_its_model(
    client: Any, parent: Any, tiny_run: Path, tiny_cohort: Path, tmp_path: Path
):
    scan = tiny_cohort / f"imagesTr/{IDS[0]}.nii.gz"
    result = medseg("infer", scan, "-m", tiny_run, "-o", tmp_path / "OUT", "--tracking", "--json")
    said = document(result)["mlflow"]
    found = client.get_run(said["run_id"])
    assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (found.data.metrics["infer/done"], found.info.status) == (1.0, "FINISHED")
    assert read_json(tmp_path / "OUT/report.json")["mlflow"] == said
    table = read_json(Path(client.download_artifacts(found.info.run_id, "cases.json", str(tmp_path))))
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert row["id"] == IDS[0] and any(name.endswith(" ml") for name in row)


def test_a_second_infer_lies_below_the_run_that_made_its_model_too(
    client: Any, parent: Any, tiny_run: Path, tiny_cohort: Path, tmp_path: Path
):
    scan, runs = tiny_cohort / f"imagesTr/{IDS[0]}.nii.gz", []
    for out in ("A", "B"):
        result = medseg("infer", scan, "-m", tiny_run, "-o", tmp_path / out, "--tracking", "--json")
        runs.append(client.get_run(document(result)["mlflow"]["run_id"]))
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent.info.run_id}


def test_an_evaluate_run_lies_below_the_run_that_made_the_masks_model(
    client: Any, parent: Any, tiny_run: Path, tiny_cohort: Path, tmp_path: Path
):
    scans = [tiny_cohort / f"imagesTr/{name}.nii.gz" for name in IDS[:2]]
    masks, out = tmp_path / "masks", tmp_path / "OUT"
    assert medseg("infer", *scans, "-m", tiny_run, "-o", masks).exit_code == 0
    words = ("evaluate", tiny_cohort / "labelsTr", masks, "-o", out, "--tracking", "--plots", "--json")
    said = document(medseg(*words))
    found = client.get_run(said["mlflow"]["run_id"])
    assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert found.data.metrics["evaluate/dice"] == said["metrics"]["mean"]["dice"]
    assert found.inputs.dataset_inputs[0].dataset.name == "references"
    logged = {one.path for one in client.list_artifacts(found.info.run_id)}
    assert logged == {"cases.json", "metrics.json", "plots"}


def test_a_table_too_long_for_mlflow_holds_the_worst_cases_and_a_file_all(
    client: Any, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("medseg.workflows.tracked_evaluate.MAX_ROWS", 4)
    labels = tiny_cohort / "labelsTr"
    said = document(medseg("evaluate", labels, labels, "-o", tmp_path / "OUT", "--tracking", "--json"))
    run_id = said["mlflow"]["run_id"]
    logged = {one.path for one in client.list_artifacts(run_id)}
    assert logged == {"cases.json", "cases.csv", "metrics.json"}
    table = client.get_run(run_id).data.tags["medseg.table"]
    assert table == f"the worst 2 of {len(IDS)} cases; cases.csv has all"


def test_the_worst_cases_come_first_and_those_without_dice_last():
    empty, whole = np.zeros((4, 4, 2), np.uint8), np.ones((4, 4, 2), np.uint8)
    half = whole.copy()
    half[:2] = 0
    pairs = {"a": (whole, whole), "b": (empty, empty), "c": (whole, half), "d": (whole, empty)}
    scores = Scores()
    for name, (reference, predicted) in pairs.items():
        scores.add(evaluate_case(reference, predicted, (1, 1, 3), {1: "x"}, choose_metrics(), case_id=name))
    assert [case.case_id for case in pick_worst(scores, 3)] == ["d", "c", "a"]
    assert [case.case_id for case in pick_worst(scores, 4)] == ["a", "b", "c", "d"]


def test_masks_of_several_or_unknown_models_have_no_run_above_them(tmp_path: Path):
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("a", "b")}
    assert find_model(paths) == ""
    for name, sha256 in (("a", "0" * 64), ("b", "1" * 64)):
        write_json(tmp_path / f"{name}.json", {"model_sha256": sha256})
    assert find_model(paths) == "" and find_model({"a": paths["a"]}) == "0" * 64
    write_json(tmp_path / "a.json", {"model_sha256": "' or tags.a = '"})
    assert find_model({"a": paths["a"]}) == ""


def test_infer_tracks_nothing_unless_asked(tiny_run: Path, tiny_cohort: Path, tmp_path: Path):
    scan = tiny_cohort / f"imagesTr/{IDS[0]}.nii.gz"
    result = medseg("infer", scan, "-m", tiny_run, "-o", tmp_path / "OUT", "--json")
    assert document(result)["mlflow"] is None


def test_a_verdict_of_trust_is_a_column_with_its_reasons(tmp_path: Path):
    verdict = {"look": True, "reasons": ["small", "dark"], "outlier": {"distance": 3.2, "p": 0.04}}
    row = describe_case(CaseResult("a", "done", trust={**verdict, "structures": {}}), tmp_path)
    told = {"look": "yes", "why": "small; dark", "outlier distance": 3.2, "outlier p": 0.04}
    assert row == {"id": "a", "status": "done", "code": None, **told}


def test_what_trust_predicts_of_each_structure_is_in_columns():
    names = ("dice", "dice_low", "dice_high", "volume_ml", "volume_ml_low", "volume_ml_high", "entropy")
    organ = {"name": "organ", "confidence": 0.9, "disagreement": None, **dict(zip(names, range(7)))}
    trust = {"outlier": {"distance": 1.0, "p": 0.5, "unusual": {}}, "structures": {"1": organ}}
    found = {name.removeprefix("organ "): value for name, value in describe_trust(trust).items()}
    assert found == {
        "outlier distance": 1.0,
        "outlier p": 0.5,
        "predicted dice": 0,
        "dice low": 1,
        "dice high": 2,
        "predicted ml": 3,
        "ml low": 4,
        "ml high": 5,
        "entropy": 6,
        "disagreement": None,
    }


def test_without_a_store_there_is_no_run_to_find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none/mlflow.db")
    assert find_run(kind="run") == ("", "")


def test_the_figures_of_a_run_are_with_it(client: Any, parent: Any, tiny_run: Path):
    names = {"dice", "nsd", "dice_by_size", "volumes", "confusion", "training"}
    logged = {Path(one.path).name for one in client.list_artifacts(parent.info.run_id, "plots")}
    there = {path.name for path in (tiny_run / "evaluation/plots").iterdir()}
    assert logged == there == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
