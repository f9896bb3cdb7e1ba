import csv
import json

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.io import write_labels, write_volume
from tests.tiny import document, medseg

GRID = Geometry.of_spacing((6, 5, 4), (0.5, 1.0, 4.0), (-10, 20, 5))


@pytest.fixture
def cohort(tmp_path):
    """Two masks with images whose value is ten times the label; the second mask lacks label 2."""
    for name, second in (("a", 2), ("b", 1)):
        labels = np.zeros(GRID.shape, np.uint8)
        labels[1:3, 1:4, 1] = 1
        labels[4, 1:3, 3] = second
        write_labels(tmp_path / "masks" / f"{name}.nii.gz", Labels(labels, GRID))
        write_volume(tmp_path / "images" / f"{name}_0000.nii.gz", Volume(labels[None] * np.uint8(10), GRID))
        write_volume(tmp_path / "images" / f"{name}_0001.nii.gz", Volume(labels[None] * np.uint8(3), GRID))
    return tmp_path


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_label_of_every_mask_has_a_row_and_what_is_absent_is_zero(cohort):
    result = medseg("stats", cohort / "masks", "-o", cohort / "out", "--json")
    rows = read(cohort / "out" / "stats.csv")

    assert result.exit_code == 0
    assert [(row["id"], row["label"], row["voxels"], row["components"]) for row in rows] == [
        ("a", "1", "6", "1"), ("a", "2", "2", "1"), ("b", "1", "8", "2"), ("b", "2", "0", "0"),
    ]  # fmt: skip
    assert [float(row["volume_ml"]) for row in rows] == [0.012, 0.004, 0.016, 0.0]
    assert rows[3]["centroid_r_mm"] == rows[3]["surface_mm2"] == ""
    assert "intensity_mean" not in rows[0]
    assert json.loads((cohort / "out" / "stats.json").read_text()) == document(result)


def test_a_summary_is_over_the_cases_that_hold_the_label(cohort):
    labels = document(medseg("stats", cohort / "masks", "--json"))["stats"]["labels"]

    assert labels["1"]["n"] == 2 and labels["2"]["n"] == 1
    assert labels["1"]["volume_ml"] == {
        "mean": 0.014, "sd": pytest.approx(0.002828), "median": 0.014, "min": 0.012, "max": 0.016,
    }  # fmt: skip
    assert labels["2"]["volume_ml"]["sd"] is None
    assert labels["1"]["components_mean"] == 1.5


@pytest.mark.parametrize(("channel", "factor"), [(0, 10), (1, 3)])
def test_intensities_are_those_of_the_channel_that_is_asked_for(channel, factor, cohort):
    tree = document(
        medseg("stats", cohort / "masks", "--images", cohort / "images", "--channel", channel, "--json")
    )

    assert [row["intensity_mean"] for row in tree["stats"]["rows"]] == [factor, 2 * factor, factor, None]


def test_the_channel_of_a_file_that_holds_several_is_taken(cohort):
    write_volume(
        cohort / "two.nii.gz", Volume(np.stack([np.full(GRID.shape, v, np.uint8) for v in (7, 8)]), GRID)
    )
    mask = cohort / "masks" / "a.nii.gz"
    tree = document(medseg("stats", mask, "--images", cohort / "two.nii.gz", "--channel", 1, "--json"))

    assert tree["stats"]["rows"][0]["intensity_mean"] == 8


def test_a_channel_that_the_image_has_not_is_refused_and_not_replaced_by_another(cohort):
    write_volume(cohort / "two.nii.gz", Volume(np.zeros((2, *GRID.shape), np.uint8), GRID))
    mask = cohort / "masks" / "a.nii.gz"
    result = medseg("stats", mask, "--images", cohort / "two.nii.gz", "--channel", 2, "--json")

    assert result.exit_code == 3 and document(result)["cases"][0]["code"] == "CHANNELS"


def test_labels_can_be_chosen_and_named(cohort):
    result = medseg("stats", cohort / "masks" / "b.nii.gz", "--labels", "2=lesion,1", "--json")

    assert [(row["label"], row["name"]) for row in document(result)["stats"]["rows"]] == [
        (1, "1"),
        (2, "lesion"),
    ]


def test_the_terminal_tells_each_labels_volume(cohort):
    text = medseg("stats", cohort / "masks", "--labels", "1=organ,7").stderr

    assert "label 1 organ: in 2 of 2 cases, volume 0.014 (median; 0.012 to 0.016) ml" in text
    assert "label 7: in 0 of 2 cases, volume - ml" in text


def test_a_bad_mask_is_reported_and_the_others_go_on(cohort):
    (cohort / "masks" / "bad.nii.gz").write_bytes(b"no image")
    result = medseg("stats", cohort / "masks", "--json")
    tree = document(result)

    assert result.exit_code == 3
    assert {row["id"] for row in tree["stats"]["rows"]} == {"a", "b"}
    assert tree["summary"]["rejected"] == 1


def test_an_image_on_another_grid_or_none_rejects_the_case(cohort):
    shifted = Geometry.of_spacing(GRID.shape, GRID.spacing_mm)
    write_volume(cohort / "images" / "a_0000.nii.gz", Volume(np.zeros((1, *GRID.shape), np.uint8), shifted))
    (cohort / "images" / "b_0000.nii.gz").unlink()
    tree = document(medseg("stats", cohort / "masks", "--images", cohort / "images", "--json"))

    assert [case["code"] for case in tree["cases"]] == ["GRID_MISMATCH", "IMAGE_MISSING"]


@pytest.mark.parametrize("name", ["a_prob", "a_entropy", "a_disagreement"])
def test_a_map_that_infer_writes_beside_a_mask_is_no_mask(name, cohort):
    (cohort / "masks" / f"{name}.nii.gz").write_bytes(b"not read")

    assert medseg("stats", cohort / "masks", "-q").exit_code == 0


def test_a_name_that_a_spreadsheet_would_run_is_text(cohort):
    medseg("stats", cohort / "masks", "--labels", "1==cmd()", "-o", cohort / "out")

    assert read(cohort / "out" / "stats.csv")[0]["name"] == "'=cmd()"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nowhere",), "INPUT_MISSING"),
        (("masks", "--images", "nowhere"), "INPUT_MISSING"),
        (("empty",), "NO_CASES"),
        (("twice",), "DUPLICATE_ID"),
        (("masks", "--labels", "organ"), "CONFIG"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, code, cohort, monkeypatch):
    monkeypatch.chdir(cohort)
    (cohort / "empty").mkdir()
    (cohort / "twice").mkdir()
    for name in ("a.nii.gz", "a.nrrd"):
        (cohort / "twice" / name).touch()

    assert document(medseg("stats", *arguments, "--json"))["error"]["code"] == code
