"""Whole runs beyond the plain one: all folds with a test set, 2D pictures, worker processes."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import ResourceError
from medseg.io import read_labels
from medseg.workflows.parallel import Workers
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.run import train_and_evaluate
from medseg.workflows.run_folder import RunFolder
from tests.tiny import IDS, document, hashes, medseg


@pytest.fixture(scope="module")
def all_folds(tiny_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both folds with a third of the cases held back for a test."""
    run = tmp_path_factory.mktemp("folds") / "RUN"
    result = medseg(
        *("run", "phantom_ct", "--data", tiny_cohort, "-o", run, "--config", tiny_cohort / "tiny.yaml"),
        *("--no-tracking", "--fold", "all", "--set", "split.test_share=0.33", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    assert document(result) == json.loads((run / "report.json").read_text())
    return run


def test_each_case_is_predicted_by_the_fold_that_held_it_out(all_folds: Path):
    splits = json.loads((all_folds / "splits.json").read_text())
    parts = {"test": splits["test"], "fold_0": splits["folds"][0], "fold_1": splits["folds"][1]}
    assert [len(names) for names in parts.values()] == [2, 2, 2]
    for part, names in parts.items():
        masks = {path.name for path in (all_folds / "predictions" / part).glob("*.nii.gz")}
        assert masks == {f"{name}.nii.gz" for name in names}


def test_the_model_holds_both_networks_and_the_test_set_is_scored_apart(all_folds: Path):
    weights = sorted(path.name for path in (all_folds / "model").glob("*.safetensors"))
    assert weights == ["weights_fold_0.safetensors", "weights_fold_1.safetensors"]
    report = json.loads((all_folds / "report.json").read_text())
    assert report["metrics"]["labels"]["1"]["n"] == 4 and report["test_metrics"]["labels"]["1"]["n"] == 2
    stored = json.loads((all_folds / "evaluation/test/metrics.json").read_text())
    assert stored == report["test_metrics"]


def test_a_third_run_of_one_fold_keeps_the_other_folds_weights(all_folds: Path, tmp_path: Path):
    run = Path(shutil.copytree(all_folds, tmp_path / "RUN"))
    shutil.rmtree(run / "fold_1")
    before = hashes(run / "model")
    assert medseg("train", run, "--fold", "1", "--no-tracking", "-q").exit_code == 0
    weights = {name: digest for name, digest in hashes(run / "model").items() if "weights" in name}
    assert weights.items() <= before.items() and len(weights) == 2


def test_pictures_are_learnt_and_segmented_as_pictures(tmp_path: Path):
    assert medseg("phantom", "-o", tmp_path / "data", "--kind", "xray", "--cases", "4", "-q").exit_code == 0
    settings = {
        "split.folds": 2,
        "grid.patch": "[32, 32, 1]",
        "grid.batch_size": 2,
        "model.name": "strided_unet",
        "model.options": "{features: [4, 8, 8, 8]}",
        "train.epochs": 1,
        "train.iterations_per_epoch": 2,
        "train.validate_cases": 1,
        "train.amp": "off",
        "threads": 1,
        "workers": 1,
    }
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run = tmp_path / "RUN"
    result = medseg("run", "lung_xray", "--data", tmp_path / "data", "-o", run, "--no-tracking", *sets)
    assert result.exit_code == 0, result.stderr
    assert (run / "store/phantom_000/reference.png").exists()
    image = tmp_path / "data/images/phantom_000.png"
    result = medseg(
        *("infer", image, "-m", run, "-o", tmp_path / "OUT", "--threads", "1"),
        *("--save-probabilities", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    case = document(result)["cases"][0]
    assert case["outputs"] == ["phantom_000.png", "phantom_000.json"]
    assert [warning["code"] for warning in case["warnings"]][:1] == ["NO_PROBABILITIES"]
    assert read_labels(tmp_path / "OUT/phantom_000.png").array.shape == read_labels(image).array.shape


def test_worker_processes_write_the_same_bytes_as_one(tiny_run: Path, tiny_cohort: Path, tmp_path: Path):
    result = medseg(
        *("preprocess", "phantom_ct", "--data", tiny_cohort, "--config", tiny_cohort / "tiny.yaml"),
        *("-o", tmp_path / "RUN", "--set", "workers=2", "-q"),
    )
    assert result.exit_code == 0
    assert hashes(tmp_path / "RUN/store") == hashes(tiny_run / "store")


def double(number: int) -> int:
    return 2 * number


def test_one_worker_is_this_process_and_keeps_the_order():
    with Workers(1) as workers:
        assert list(workers.map(double, [3, 4])) == [(0, 6), (1, 8)] and workers._pool is None


def test_a_worker_that_dies_is_a_matter_of_the_machine():
    with Workers(2) as workers, pytest.raises(ResourceError) as caught:
        list(workers.map(exit_at_once, [1, 2]))
    assert caught.value.code == "WORKER_DIED" and "workers=1" in caught.value.hint


def exit_at_once(number: int) -> None:
    os._exit(number)


def test_a_patient_without_an_image_is_reported_and_the_others_are_done(
    tiny_cohort: Path, tiny_run: Path, tmp_path: Path
):
    for name in ("one", "two"):
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(tiny_cohort / "imagesTr" / f"{IDS[0]}.nii.gz", tmp_path / "in" / name / "a.nii.gz")
    shutil.copy(tiny_cohort / "imagesTr" / f"{IDS[1]}.nii.gz", tmp_path / "in/two/b.nii.gz")
    result = medseg("infer", tmp_path / "in", "-m", tiny_run, "-o", tmp_path / "OUT", "--json")
    status = {case["id"]: (case["status"], case["code"]) for case in document(result)["cases"]}
    assert status == {"one": ("done", None), "two": ("rejected", "CHANNEL_MISSING")}
    assert result.exit_code == 3


def test_a_case_that_changes_between_check_and_preprocess_is_reported(
    tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = Path(shutil.copytree(tiny_cohort, tmp_path / "data"))
    from medseg.workflows import preprocess as workflow

    original = workflow.plan_run

    def plan_and_tear(*arguments: object, **options: object):
        (data / "imagesTr" / f"{IDS[0]}.nii.gz").write_bytes(b"")
        return original(*arguments, **options)

    monkeypatch.setattr(workflow, "plan_run", plan_and_tear)
    result = medseg(
        *("preprocess", "phantom_ct", "--data", data, "--config", data / "tiny.yaml", "-o", tmp_path / "RUN"),
        "--json",
    )
    bad = [case for case in document(result)["cases"] if case["status"] == "rejected"]
    assert result.exit_code == 3 and [(case["id"], case["code"]) for case in bad] == [(IDS[0], "NII_EMPTY")]
    assert not (tmp_path / "RUN/store" / IDS[0]).exists()


def test_an_interrupted_training_says_so_to_the_tracker(tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    ended: list[str] = []

    class Recorder:
        link, is_on = None, False

        def end(self, status: str) -> None:
            ended.append(status)

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.workflows.run.open_tracker", lambda *a, **k: Recorder())
    monkeypatch.setattr("medseg.workflows.run.train_fold", interrupt)
    folder = RunFolder(tiny_run)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(
            folder.load_config(), folder, folds=[0], progress=Progress(), report=Report("train")
        )
    assert ended == ["KILLED"]


def test_training_can_start_from_another_models_weights(tiny_run: Path, tmp_path: Path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "RUN"))
    shutil.rmtree(run / "fold_0")
    result = medseg("train", run, "--init-from", tiny_run, "--no-tracking", "-q")
    assert result.exit_code == 0, result.stderr
    name = "model/weights_fold_0.safetensors"
    assert (run / name).read_bytes() != (tiny_run / name).read_bytes()


def test_a_fold_that_began_cannot_get_another_start(tiny_run: Path, tmp_path: Path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "RUN"))
    result = medseg("train", run, "--init-from", tiny_run, "--no-tracking", "-q")
    assert result.exit_code == 2 and "CONFIG_CHANGED" in result.stderr


def test_masks_do_not_depend_on_who_else_is_segmented(tiny_cohort: Path, tiny_run: Path, tmp_path: Path):
    images = tiny_cohort / "imagesTr"
    medseg("infer", images, "-m", tiny_run, "-o", tmp_path / "all", "--threads", "1", "-q")
    one = images / f"{IDS[4]}.nii.gz"
    medseg("infer", one, "-m", tiny_run, "-o", tmp_path / "one", "--threads", "1", "-q")
    masks = [read_labels(tmp_path / part / f"{IDS[4]}.nii.gz").array for part in ("all", "one")]
    assert np.array_equal(*masks)
