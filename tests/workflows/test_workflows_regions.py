"""A whole run with overlapping regions, and one that sees nothing but scribbles."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.core.files import read_json, write_json
from medseg.core.volume import Labels
from medseg.io import read_labels, read_volume, write_labels, write_volume
from tests.tiny import IDS, make_case, medseg, write_settings

REGIONS = "[{name: body, covers: [1, 2], paints: 1}, {name: core, covers: [2], paints: 2}]"
TRAINING = {
    "split.folds": 2,
    "train.epochs": 1,
    "train.iterations_per_epoch": 60,
    "train.learning_rate": 0.01,
    "train.ema_decay": 0.8,
    "data.channels.ct.normalize": "zscore",
}


def run(cohort: Path, out: Path, **settings: object) -> Path:
    words = [word for key, value in {**TRAINING, **settings}.items() for word in ("--set", f"{key}={value}")]
    config = write_settings(cohort)
    result = medseg(
        "run", "phantom_ct", "--data", cohort, "-o", out, "--config", config, *words, "--no-tracking", "-q"
    )
    assert result.exit_code == 0, result.stderr
    return out


def predictions(run: Path) -> dict[str, NDArray[np.uint16]]:
    found = sorted((run / "predictions/fold_0").glob("*.nii.gz"))
    return {path.name.removesuffix(".nii.gz"): read_labels(path).array for path in found}


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


# --- regions -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regions(tiny_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network says of each voxel whether it lies in the body, and whether in the core."""
    return run(tiny_cohort, tmp_path_factory.mktemp("regions") / "RUN", **{"data.regions": REGIONS})


def test_regions_are_learnt_and_painted_as_labels(regions: Path):
    for name, mask in predictions(regions).items():
        truth = make_case(IDS.index(name))[1].array
        assert set(np.unique(mask)) <= {0, 1, 2}
        assert dice(mask > 0, truth > 0) > 0.8


def test_regions_are_scored_in_validation_and_evaluation(regions: Path):
    assert "val/dice_body" in (regions / "fold_0/history.csv").read_text().splitlines()[0].split(",")
    metrics = read_json(regions / "evaluation/metrics.json")
    assert list(metrics["regions"]) == ["body", "core"] and list(metrics["labels"]) == ["1", "2"]
    assert metrics["regions"]["body"]["dice"] > 0.8
    assert "| region" in (regions / "model/MODEL_CARD.md").read_text()


def test_inference_gives_a_probability_per_region_and_the_mask_that_they_paint(
    regions: Path, tiny_cohort: Path, tmp_path: Path
):
    scan = tiny_cohort / "imagesTr" / f"{IDS[0]}.nii.gz"
    result = medseg("infer", scan, "--model", regions, "-o", tmp_path / "OUT", "--save-probabilities", "-q")
    assert result.exit_code == 0, result.stderr
    body, core = read_volume(tmp_path / "OUT" / f"{IDS[0]}_prob.nii.gz").array > 0.5
    mask = read_labels(tmp_path / "OUT" / f"{IDS[0]}.nii.gz").array
    assert np.array_equal(mask, np.where(core, 2, body.astype(int)))


# --- scribbles ---------------------------------------------------------------------------------


def scribble(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the label on three lines through each structure, with 3 for background, and 0 off them."""
    values = np.where(label, label, 3)
    drawn = np.zeros_like(label)
    for value in (1, 2):
        i, j, k = (int(axis[len(axis) // 2]) for axis in np.nonzero(label == value))
        drawn[i, :, k] = values[i, :, k]
        drawn[:, j, k] = values[:, j, k]
        drawn[i, j, :] = values[i, j, :]
    return drawn


@pytest.fixture(scope="module")
def scribbles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a cohort in which about one voxel in 50 is labelled."""
    cohort = tmp_path_factory.mktemp("scribbles") / "data"
    entries = []
    for seed, name in enumerate(IDS):
        image, label = make_case(seed)
        write_volume(cohort / "imagesTr" / f"{name}.nii.gz", image)
        drawn = Labels(scribble(label.array), label.geometry)
        write_labels(cohort / "labelsTr" / f"{name}.nii.gz", drawn)
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    write_json(cohort / "dataset.json", {"training": entries})
    sparse = {"data.label_map": "{0: 255, 3: 0}", "data.ignore_label": 255}
    return run(cohort, cohort.parent / "RUN", **sparse)


def test_scribbles_teach_whole_structures(scribbles: Path):
    for name, mask in predictions(scribbles).items():
        truth = make_case(IDS.index(name))[1].array
        assert (scribble(truth) > 0).mean() < 0.03
        assert set(np.unique(mask)) <= {0, 1, 2}
        assert dice(mask > 0, truth > 0) > 0.75


def test_only_scribbled_voxels_are_scored(scribbles: Path):
    rows = list(csv.DictReader((scribbles / "evaluation/cases.csv").read_text().splitlines()))
    assert len(rows) == 6  # three cases, two labels
    for row in rows:
        drawn = scribble(make_case(IDS.index(row["id"]))[1].array)
        voxels = float(row["volume_reference_ml"]) / (1.5 * 1.5 * 3 / 1000)
        assert round(voxels) == (drawn == int(row["label"])).sum()
        found = float(row["volume_predicted_ml"]) / (1.5 * 1.5 * 3 / 1000)
        assert round(found) <= (drawn > 0).sum()


def test_validation_counts_scribbled_voxels_alone(scribbles: Path):
    (row,) = csv.DictReader((scribbles / "fold_0/history.csv").read_text().splitlines())
    assert 0 < float(row["val/dice"]) <= 1
    assert json.loads((scribbles / "report.json").read_text())["metrics"]["mean"]["dice"] > 0.5
