"""evaluate: masks of any tool against references."""

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.volume import Labels
from medseg.io import write_labels
from tests.tiny import document, medseg

GRID = Geometry.of_spacing((10, 8, 6), (1.0, 2.0, 3.0))


def write(path: Path, boxes: dict[int, tuple[slice, ...]], grid: Geometry = GRID) -> None:
    array = np.zeros(grid.shape, np.uint8)
    for value, box in boxes.items():
        array[box] = value
    write_labels(path, Labels(array, grid))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """a: label 1 of 4 x 2 x 2 against its half; b: label 2 in both."""
    reference, predicted = tmp_path / "reference", tmp_path / "predicted"
    write(reference / "a.nii.gz", {1: np.s_[2:6, 2:4, 2:4]})
    write(predicted / "a.nii.gz", {1: np.s_[2:4, 2:4, 2:4]})
    write(reference / "b.nii.gz", {2: np.s_[2:6, 2:4, 2:4]})
    write(predicted / "b.nii.gz", {2: np.s_[2:6, 2:4, 2:4]})
    return reference, predicted


def test_two_folders_are_paired_by_id(folders: tuple[Path, Path], tmp_path: Path):
    result = medseg("evaluate", *folders, "-o", tmp_path / "OUT", "--json")
    assert result.exit_code == 0, result.stderr
    labels = document(result)["metrics"]["labels"]
    assert labels["1"]["dice"] == pytest.approx(2 * 8 / (16 + 8), abs=1e-6) and labels["2"]["dice"] == 1
    assert labels["1"]["volume_error_ml"] == pytest.approx(-8 * 6 / 1000)


def test_the_folder_holds_a_table_and_the_summary(folders: tuple[Path, Path], tmp_path: Path):
    metrics = document(medseg("evaluate", *folders, "-o", tmp_path / "OUT", "--json"))["metrics"]
    assert {"cases.csv", "metrics.json"} <= {path.name for path in (tmp_path / "OUT").iterdir()}
    assert json.loads((tmp_path / "OUT/metrics.json").read_text()) == metrics
    assert (tmp_path / "OUT/cases.csv").read_text().splitlines()[1].startswith("a,")


def test_two_files_are_one_pair(folders: tuple[Path, Path], tmp_path: Path):
    reference, predicted = folders
    result = medseg(
        "evaluate", reference / "a.nii.gz", predicted / "b.nii.gz", "-o", tmp_path / "OUT", "--json"
    )
    assert result.exit_code == 0 and document(result)["metrics"]["mean"]["dice"] == 0


def test_only_the_labels_asked_for_are_scored(folders: tuple[Path, Path], tmp_path: Path):
    result = medseg("evaluate", *folders, "-o", tmp_path / "OUT", "--labels", "2", "--json")
    assert list(document(result)["metrics"]["labels"]) == ["2"]


def test_labels_that_are_no_numbers_are_refused(folders: tuple[Path, Path], tmp_path: Path):
    result = medseg("evaluate", *folders, "-o", tmp_path / "OUT", "--labels", "liver")
    assert result.exit_code == 2 and "liver" in result.stderr and not (tmp_path / "OUT").exists()


def test_a_missing_prediction_is_reported_and_the_rest_is_scored(folders: tuple[Path, Path], tmp_path: Path):
    (folders[1] / "b.nii.gz").unlink()
    result = medseg("evaluate", *folders, "-o", tmp_path / "OUT", "--json")
    assert result.exit_code == 3 and "PREDICTION_MISSING b: " in result.stderr
    assert document(result)["metrics"]["labels"]["1"]["n"] == 1


def test_masks_on_other_grids_are_not_compared(folders: tuple[Path, Path], tmp_path: Path):
    write(folders[1] / "a.nii.gz", {1: np.s_[2:6, 2:4, 2:4]}, Geometry.of_spacing((10, 8, 6), (1, 2, 3.5)))
    result = medseg("evaluate", *folders, "-o", tmp_path / "OUT", "--json")
    assert result.exit_code == 3 and "GRID_MISMATCH a: " in result.stderr


def test_both_empty_is_counted_and_undefined(tmp_path: Path):
    for folder in ("reference", "predicted"):
        write(tmp_path / folder / "a.nii.gz", {})
    result = medseg(
        *("evaluate", tmp_path / "reference", tmp_path / "predicted", "-o", tmp_path / "OUT"),
        *("--labels", "1", "--json"),
    )
    row = document(result)["metrics"]["labels"]["1"]
    assert row["dice"] is None and (row["n_both_empty"], row["n_missed"], row["n_spurious"]) == (1, 0, 0)


def test_folders_without_a_common_id_are_refused(folders: tuple[Path, Path], tmp_path: Path):
    write(tmp_path / "other" / "z.nii.gz", {})
    result = medseg("evaluate", folders[0], tmp_path / "other", "-o", tmp_path / "OUT")
    assert result.exit_code == 3 and "NO_CASES" in result.stderr


def test_a_missing_folder_is_a_usage_error(folders: tuple[Path, Path], tmp_path: Path):
    result = medseg("evaluate", folders[0], tmp_path / "nowhere", "-o", tmp_path / "OUT")
    assert result.exit_code == 2 and "INPUT_MISSING" in result.stderr


def test_masks_of_infer_can_be_evaluated_beside_their_probabilities(
    tiny_cohort: Path, tiny_run: Path, tmp_path: Path
):
    medseg(
        *("infer", tiny_cohort / "imagesTr", "-m", tiny_run, "-o", tmp_path / "masks"),
        *("--save-probabilities", "--threads", "1"),
    )
    result = medseg(
        "evaluate", tiny_cohort / "labelsTr", tmp_path / "masks", "-o", tmp_path / "OUT", "--json"
    )
    assert result.exit_code == 0 and document(result)["metrics"]["labels"]["1"]["n"] == 6


def test_a_reference_that_cannot_be_read_is_reported_when_it_is_compared(
    folders: tuple[Path, Path], tmp_path: Path
):
    (folders[0] / "b.nii.gz").write_bytes(b"")
    result = medseg("evaluate", *folders, "-o", tmp_path / "OUT", "--json")
    assert result.exit_code == 3 and "NII_EMPTY b: " in result.stderr
    assert [case["status"] for case in document(result)["cases"]] == ["done", "rejected"]


def test_two_masks_with_one_id_are_refused(tmp_path):
    for name in ("reference/a.nii.gz", "masks/a.nii.gz", "masks/a.nrrd"):
        grid = Geometry.of_spacing((3, 3, 3), (1, 1, 2))
        write_labels(tmp_path / name, Labels(np.ones((3, 3, 3), np.uint8), grid))
    result = medseg("evaluate", tmp_path / "reference", tmp_path / "masks", "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "DUPLICATE_ID" in result.stderr


def test_a_value_in_predictions_only_is_evaluated_as_spurious(tmp_path):
    grid = Geometry.of_spacing((3, 3, 3), (1, 1, 2))
    for folder, value in (("reference", 0), ("masks", 7)):
        write_labels(tmp_path / folder / "a.nii.gz", Labels(np.full((3, 3, 3), value, np.uint8), grid))
    result = medseg("evaluate", tmp_path / "reference", tmp_path / "masks", "-o", tmp_path / "out", "--json")
    assert document(result)["metrics"]["labels"]["7"]["n_spurious"] == 1


def test_ignored_voxels_of_a_reference_are_not_compared(folders: tuple[Path, Path], tmp_path: Path):
    reference, predicted = folders
    write(reference / "a.nii.gz", {1: np.s_[2:4, 2:4, 2:4], 9: np.s_[4:6, 2:4, 2:4]})
    write(predicted / "a.nii.gz", {1: np.s_[2:6, 2:4, 2:4]})
    result = medseg("evaluate", *folders, "-o", tmp_path / "OUT", "--ignore-label", "9", "--json")
    labels = document(result)["metrics"]["labels"]
    assert list(labels) == ["1", "2"] and labels["1"]["dice"] == 1
