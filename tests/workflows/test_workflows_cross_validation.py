"""Folds trained one by one are one cross-validation, and its held-out cases choose the post-processing."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.config import Builder, Config, Region
from medseg.config.pipelines import find_pipeline
from medseg.core.errors import ConfigError
from medseg.core.files import sha256_of_file, write_csv
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels
from medseg.data.splits import Splits
from medseg.inference.model import load_model
from medseg.inference.segment import Segmenter
from medseg.inference.settings import Infer
from medseg.io import write_labels
from medseg.workflows.model_folder import write_model
from medseg.workflows.postprocess_choice import recall_infer, settle_infer
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.run_folder import RunFolder
from tests.tiny import IDS, hashes, make_case, medseg

SHAPE, SPACING_MM = (12, 8, 6), (1.0, 2.0, 5.0)  # 10 mm3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folds(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose fold 1 was trained by a second command."""
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("folds") / "RUN"))
    result = medseg("train", run, "--fold", "1", "--no-tracking", "--json")
    assert result.exit_code == 0, result.stderr
    (run.parent / "stdout.json").write_text(result.stdout)
    return run


def test_a_second_command_evaluates_the_cases_of_both_folds(folds: Path):
    rows = list(csv.DictReader((folds / "evaluation/cases.csv").read_text().splitlines()))
    assert {row["id"] for row in rows} == set(IDS)
    metrics = json.loads((folds.parent / "stdout.json").read_text())["metrics"]
    assert metrics["labels"]["1"]["n"] == 6


def test_predictions_of_the_first_fold_are_kept(folds: Path, tiny_run: Path):
    assert hashes(folds / "predictions/fold_0") == hashes(tiny_run / "predictions/fold_0")
    assert len(list((folds / "predictions/fold_1").glob("*.nii.gz"))) == 3


def test_few_patients_choose_no_post_processing(folds: Path):
    assert not (folds / "postprocess.json").exists()


def test_new_cases_get_the_mean_of_all_folds(folds: Path):
    models = [load_model(folds, CPU, folds=chosen) for chosen in ([0], [1], None)]
    image = np.random.default_rng(0).normal(0, 1, (1, *make_case(0)[0].geometry.shape)).astype(np.float16)
    one, other, both = (Segmenter(model, model.infer).predict(image) for model in models)
    assert np.abs(both - (one + other) / 2).max() < 1e-5 < np.abs(one - other).max()


def organ(*specks: int) -> np.ndarray:
    """Return 3 x 3 x 3 voxels of label 1, and apart from them a row of voxels of each length given."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 1:4, 1:4] = 1
    for number, length in enumerate(specks):
        labels[6 : 6 + length, 6, 2 * number] = 1
    return labels


@pytest.fixture
def config() -> Config:
    return find_pipeline("phantom_ct")


def change(config: Config, **infer: object) -> Config:
    return config.model_copy(update={"infer": config.infer.model_copy(update=infer)})


def make_pairs(root: Path, n_cases: int, *specks: int, folds: int = 2) -> tuple[RunFolder, dict]:
    """Return a run's splits and patients, and organs that were predicted with specks."""
    run, names = RunFolder(root), [f"case{number:02}" for number in range(n_cases)]
    run.save_splits(Splits((), tuple(tuple(names[fold::folds]) for fold in range(folds))))
    write_csv(run.check / "cases.csv", [{"id": name, "patient": f"of {name}"} for name in names])
    pairs = {}
    for name in names:
        pairs[name] = root / "reference" / f"{name}.nii.gz", root / "predicted" / f"{name}.nii.gz"
        for path, array in zip(pairs[name], (organ(), organ(*specks)), strict=True):
            write_labels(path, Labels(array, Geometry.of_spacing(SHAPE, SPACING_MM)))
    return run, pairs


def settle(config: Config, run: RunFolder, pairs: dict) -> tuple[Infer, dict]:
    report = Report("run")
    return settle_infer(config, run, pairs, progress=Progress(), report=report), report.extra


def test_specks_are_removed_by_a_step_that_infer_will_run(config: Config, tmp_path: Path):
    infer, extra = settle(config, *make_pairs(tmp_path, 12, 2, 1))
    step = Builder(
        name="remove_small_components", options={"min_volume_mm3": 27.0, "labels": [1]}
    )  # a tenth of 270
    assert infer.postprocess == (step,)
    label = extra["postprocess"]["labels"]["1"]
    assert label["is_kept"] and label["dice_before"] == pytest.approx(54 / 57, abs=1e-6)
    assert label["dice_after"] == 1 and label["gain"]["low"] == pytest.approx(3 / 57, abs=1e-6)


def test_the_choice_is_stored_with_its_reasons_and_names_no_case(config: Config, tmp_path: Path):
    run, pairs = make_pairs(tmp_path, 12, 2)
    _, extra = settle(config, run, pairs)
    text = (tmp_path / "postprocess.json").read_text()
    assert json.loads(text) == extra["postprocess"] and "case0" not in text
    assert extra["postprocess"]["parts"] == "folds 0, 1"
    assert extra["postprocess"]["labels"]["1"]["words"].startswith(
        "components below 27 mm3 dropped (Dice +0.0"
    )
    assert "no held-out case" in extra["postprocess"]["labels"]["2"]["words"]


def test_a_perfect_prediction_gets_no_step(config: Config, tmp_path: Path):
    infer, extra = settle(config, *make_pairs(tmp_path, 12))
    assert infer.postprocess == () and extra["postprocess"]["steps"] == []
    assert extra["postprocess"]["labels"]["1"]["words"].startswith("none; no gain is shown")


def test_the_patients_of_a_single_fold_are_divided_into_five(config: Config, tmp_path: Path):
    run, pairs = make_pairs(tmp_path, 24, 2)
    of_fold_0 = dict(list(pairs.items())[::2])
    infer, extra = settle(config, run, of_fold_0)
    assert len(infer.postprocess) == 1
    assert list(extra["postprocess"]["labels"]["1"]["best_without_part"]) == list("01234")


def test_few_patients_with_the_label_are_said_to_be_too_few(config: Config, tmp_path: Path):
    run, pairs = make_pairs(tmp_path, 12, 2)
    empty = Labels(np.zeros(SHAPE, np.uint8), Geometry.of_spacing(SHAPE, SPACING_MM))
    for path in (path for name in list(pairs)[5:] for path in pairs[name]):
        write_labels(path, empty)
    infer, extra = settle(config, run, pairs)
    assert infer.postprocess == () and "5 patients" in extra["postprocess"]["labels"]["1"]["words"]


@pytest.mark.parametrize(
    ("infer", "n_cases"),
    [
        ({"postprocess": (Builder(name="fill_holes"),)}, 12),
        ({"postprocess_choice": "off"}, 12),
        ({}, 9),
    ],
    ids=["steps of the pipeline", "off", "nine patients"],
)
def test_nothing_is_chosen_with(infer: dict, n_cases: int, config: Config, tmp_path: Path):
    config = change(config, **infer)
    found, extra = settle(config, *make_pairs(tmp_path, n_cases, 2))
    assert found == config.infer and extra == {} and not (tmp_path / "postprocess.json").exists()


@pytest.mark.parametrize(
    "data",
    [{"regions": (Region(name="organ", covers=(1,), paints=1),)}, {"ignore_label": 255}],
    ids=["regions", "ignored voxels"],
)
def test_nothing_is_chosen_where_components_of_labels_do_not_tell(data: dict, config: Config, tmp_path: Path):
    config = config.model_copy(update={"data": config.data.model_copy(update=data)})
    found, extra = settle(config, *make_pairs(tmp_path, 12, 2))
    assert found == config.infer and extra == {}


def test_off_can_be_written_as_yaml_reads_it():
    assert Infer.model_validate({"postprocess_choice": False}).postprocess_choice == "off"


def test_the_model_holds_the_chosen_steps_and_is_whole(tiny_run: Path, config: Config, tmp_path: Path):
    run = RunFolder(Path(shutil.copytree(tiny_run, tmp_path / "RUN")))
    make_pairs(tmp_path / "other", 12, 2)
    other, pairs = make_pairs(tmp_path / "other", 12, 2)
    settle(config, other, pairs)
    before = load_model(run.root, CPU)
    shutil.copy(other.root / "postprocess.json", run.root)
    write_model(run.load_config(), run, {})
    after = load_model(run.root, CPU)  # checks SHA256SUMS
    assert before.infer.postprocess == () and after.infer.postprocess[0].name == "remove_small_components"
    assert (before.networks_sha256, before.sha256 == after.sha256) == (after.networks_sha256, False)
    assert "Post-processing of organ: components below 27 mm3" in (run.model / "MODEL_CARD.md").read_text()


def test_a_chosen_step_does_not_make_held_out_cases_be_predicted_again(
    tiny_run: Path, config: Config, tmp_path: Path
):
    run = RunFolder(Path(shutil.copytree(tiny_run, tmp_path / "RUN")))
    mask = next((run.root / "predictions/fold_0").glob("*.nii.gz"))
    before = mask.stat().st_mtime_ns, sha256_of_file(mask)
    other, pairs = make_pairs(tmp_path / "other", 12, 2)
    settle(config, other, pairs)
    shutil.copy(other.root / "postprocess.json", run.root)
    write_model(run.load_config(), run, {})
    assert medseg("train", run.root, "--no-tracking", "-q").exit_code == 0
    assert (mask.stat().st_mtime_ns, sha256_of_file(mask)) == before
    assert recall_infer(config, run).postprocess == ()  # three patients choose nothing


def test_patients_need_the_checks_table(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"check/cases\.csv is missing"):
        RunFolder(tmp_path).patients()
