"""The same command again: nothing is done twice, and nothing different is done under the same name."""

import json
import shutil
from pathlib import Path

import pytest

from medseg.core.errors import ConfigError
from medseg.core.volume import Volume
from medseg.data.plan import Plan
from medseg.io import read_volume, write_volume
from medseg.workflows.run_folder import RunFolder
from tests.tiny import IDS, document, hashes, medseg, write_cohort, write_settings

TIMED = {"report.json", "check/report.json", "fold_0/history.csv"}  # they hold durations


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "RUN"))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    write_settings(write_cohort(tmp_path / "data"))
    return tmp_path / "data"


def repeat(run: Path, cohort: Path, *more: object):
    config = cohort / "tiny.yaml"
    return medseg(
        "run", "phantom_ct", "--data", cohort, "--config", config, "-o", run, "--no-tracking", *more
    )


def test_the_same_command_again_skips_every_case_and_changes_no_byte(run: Path, tiny_cohort: Path):
    before = hashes(run)
    result = repeat(run, tiny_cohort, "--json")
    assert result.exit_code == 0, result.stderr
    assert {case["status"] for case in document(result)["cases"]} == {"skipped"}
    assert "epoch 1" not in result.stderr
    after = hashes(run)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} <= TIMED


def test_a_missing_case_of_the_store_comes_back_with_the_same_bytes(run: Path, tiny_cohort: Path):
    before = hashes(run / "store")
    shutil.rmtree(run / "store" / IDS[2])
    result = medseg(
        *("preprocess", "phantom_ct", "--data", tiny_cohort, "--config", tiny_cohort / "tiny.yaml"),
        *("-o", run, "--json"),
    )
    status = {case["id"]: case["status"] for case in document(result)["cases"]}
    assert status == {name: "done" if name == IDS[2] else "skipped" for name in IDS}
    assert hashes(run / "store") == before


def test_changed_settings_are_refused_with_the_difference(run: Path, tiny_cohort: Path):
    before = hashes(run)
    result = repeat(run, tiny_cohort, "--set", "train.epochs=3")
    assert result.exit_code == 2
    assert result.stderr.startswith("CONFIG_CHANGED") and "train.epochs: 2 -> 3" in result.stderr
    assert "\n  hint: " in result.stderr
    assert hashes(run) == before


def test_the_number_of_workers_may_change(run: Path, tiny_cohort: Path):
    result = medseg(
        *("check", "phantom_ct", "--data", tiny_cohort, "--config", tiny_cohort / "tiny.yaml"),
        *("-o", run, "--set", "workers=0"),
    )
    assert result.exit_code == 0


def test_another_image_after_training_is_refused_and_named(run: Path, cohort: Path):
    path = cohort / "imagesTr" / f"{IDS[1]}.nii.gz"
    volume = read_volume(path)
    array = volume.array.copy()
    array[0, 0, 0, 0] += 1  # far from any label: the plan stays the same
    write_volume(path, Volume(array, volume.geometry))
    before = hashes(run / "store")
    result = repeat(run, cohort)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-2].startswith("DATA_CHANGED") and IDS[1] in result.stderr
    assert hashes(run / "store") == before


def test_one_case_less_after_training_is_refused(run: Path, cohort: Path):
    tree = json.loads((cohort / "dataset.json").read_text())
    (cohort / "dataset.json").write_text(json.dumps({"training": tree["training"][:-1]}))
    before = hashes(run / "store")
    result = repeat(run, cohort)
    assert result.exit_code == 2 and "DATA_CHANGED" in result.stderr and "splits.json" in result.stderr
    assert hashes(run / "store") == before


def test_before_training_another_cohort_is_taken_over(cohort: Path, tmp_path: Path):
    arguments = (
        "preprocess",
        "phantom_ct",
        "--data",
        cohort,
        "--config",
        cohort / "tiny.yaml",
        "-o",
        tmp_path / "R",
    )
    assert medseg(*arguments).exit_code == 0
    tree = json.loads((cohort / "dataset.json").read_text())
    (cohort / "dataset.json").write_text(json.dumps({"training": tree["training"][:-1]}))
    assert medseg(*arguments).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "R/store").iterdir()) == sorted(IDS[:-1])


def test_training_goes_on_in_a_preprocessed_folder_and_gives_the_same_weights(
    run: Path, tiny_cohort: Path, tmp_path: Path
):
    shutil.rmtree(run / "fold_0")
    weights = run / "model/weights_fold_0.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(run / "model")
    result = medseg("train", run, "--no-tracking", "--json")
    assert result.exit_code == 0, result.stderr
    assert weights.read_bytes() == before


def test_a_checkpoint_of_other_settings_is_refused(run: Path, tmp_path: Path):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("learning_rate: 0.003", "learning_rate: 0.004"))
    result = medseg("train", run, "--no-tracking")
    assert result.exit_code == 2 and "CHECKPOINT_FOREIGN" in result.stderr


def test_a_fold_that_is_not_there_is_refused(tiny_run: Path):
    result = medseg("train", tiny_run, "--fold", "2", "--no-tracking")
    assert result.exit_code == 2 and "UNKNOWN_FOLD" in result.stderr and "0 to 1" in result.stderr


def test_training_needs_a_run_folder(tmp_path: Path):
    result = medseg("train", tmp_path, "--no-tracking")
    assert result.exit_code == 2 and "RUN_MISSING" in result.stderr


def test_a_run_without_its_plan_is_incomplete(tmp_path: Path, tiny_run: Path):
    shutil.copy(tiny_run / "config.yaml", tmp_path)
    result = medseg("train", tmp_path, "--no-tracking")
    assert result.exit_code == 2 and "RUN_INCOMPLETE" in result.stderr


def test_a_wrong_network_name_is_refused_before_it_is_stored(tiny_cohort: Path, tmp_path: Path):
    result = repeat(tmp_path / "RUN", tiny_cohort, "--set", "model.name=strided_unett")
    assert result.exit_code == 2 and "did you mean `strided_unet`" in result.stderr
    assert not (tmp_path / "RUN").exists()


def test_a_time_budget_is_stored_once_and_not_measured_again(run: Path):
    shutil.rmtree(run / "fold_0")
    result = medseg("train", run, "--no-tracking", "--max-minutes", "1e-9")
    assert result.exit_code == 0, result.stderr
    budget = run / "fold_0/budget.json"
    assert json.loads(budget.read_text()) == {"epochs": 1}
    assert len((run / "fold_0/history.csv").read_text().splitlines()) == 2
    result = medseg("train", run, "--no-tracking", "--max-minutes", "5")
    assert result.exit_code == 0 and json.loads(budget.read_text()) == {"epochs": 1}
    assert "--max-minutes counts only at the start" in result.stderr
    assert len((run / "fold_0/history.csv").read_text().splitlines()) == 2


def test_plan_and_splits_are_fixed_once_trained(run: Path):
    folder = RunFolder(run)
    plan = folder.load_plan()
    folder.settle("plan.json", plan.to_json())
    changed = Plan(**{**vars(plan), "spacing_mm": (9.0, 9.0, 9.0)})
    with pytest.raises(ConfigError, match=r"plan\.json would differ in spacing_mm"):
        folder.settle("plan.json", changed.to_json())
    assert folder.load_plan() == plan
