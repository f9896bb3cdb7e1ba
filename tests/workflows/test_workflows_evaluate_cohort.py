"""evaluate: chosen metrics, groups, calibration and workers."""

import csv
from pathlib import Path

import numpy as np
import pytest

from medseg.core.files import write_json
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels
from medseg.io import write_labels, write_probabilities
from tests.tiny import document, medseg

GRID = Geometry.of_spacing((8, 6, 4), (1.0, 2.0, 3.0))
NAMES = [f"c{number}" for number in range(7)]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Seven cases of one box, of which case N is missed by N / 10; c6 alone has label 2."""
    for number, name in enumerate(NAMES):
        reference, predicted = np.zeros((2, *GRID.shape), np.uint8)
        reference[1:7, 1:5, 1:3] = predicted[1:7, 1:5, 1:3] = 1
        predicted[1 : 1 + number // 2, 1:5, 1:3] = 0
        reference[7, 5, 3] = 2 * (name == "c6")
        write_labels(tmp_path / "reference" / f"{name}.nii.gz", Labels(reference, GRID))
        write_labels(tmp_path / "predicted" / f"{name}.nii.gz", Labels(predicted, GRID))
    return tmp_path / "reference", tmp_path / "predicted"


def evaluate(folders, out: Path, *arguments: object):
    return medseg("evaluate", *folders, "-o", out, "--json", *arguments)


def read(out: Path) -> list[dict[str, str]]:
    with (out / "cases.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_label_of_one_case_is_counted_in_all(folders, tmp_path: Path):
    labels = document(evaluate(folders, tmp_path / "OUT"))["metrics"]["labels"]
    assert (labels["2"]["n"], labels["2"]["n_both_empty"], labels["2"]["n_missed"]) == (1, 6, 1)
    assert len(read(tmp_path / "OUT")) == 14


def test_found_labels_and_listed_ones_give_one_table(folders, tmp_path: Path):
    evaluate(folders, tmp_path / "found")
    evaluate(folders, tmp_path / "listed", "--labels", "1,2")
    for name in ("cases.csv", "metrics.json"):
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "listed" / name).read_bytes()


def test_cases_of_one_patient_have_one_number(folders, tmp_path: Path):
    table = tmp_path / "groups.csv"
    table.write_text("id,patient\n" + "".join(f"{name},Smith{int(name[1]) // 2}\n" for name in NAMES[:6]))
    evaluate(folders, tmp_path / "OUT", "--groups", table, "--labels", "1")
    assert [row["patient"] for row in read(tmp_path / "OUT")] == ["p1", "p1", "p2", "p2", "p3", "p3", ""]
    evaluate(folders, tmp_path / "bare", "--labels", "1")
    assert "patient" not in read(tmp_path / "bare")[0]


def test_workers_change_nothing(folders, tmp_path: Path):
    evaluate(folders, tmp_path / "one")
    evaluate(folders, tmp_path / "two", "--workers", "2")
    for name in ("cases.csv", "metrics.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_only_the_metrics_asked_for_are_measured(folders, tmp_path: Path):
    result = evaluate(folders, tmp_path / "OUT", "--metrics", "dice,lesions", "--labels", "1")
    assert set(read(tmp_path / "OUT")[0]) >= {"dice", "lesion_f1"}
    assert "hd95_mm" not in read(tmp_path / "OUT")[0]
    assert "lesions" in document(result)["metrics"]["definitions"]


def test_all_metrics_can_be_asked_for(folders, tmp_path: Path):
    evaluate(folders, tmp_path / "OUT", "--metrics", "all")
    assert {"hd95_area_mm", "nsd_area", "boundary_f1", "boundary_iou", "pq"} <= set(read(tmp_path / "OUT")[0])


def test_an_option_is_set_by_name_and_adds_its_metric(folders, tmp_path: Path):
    result = evaluate(
        folders, tmp_path / "OUT", "--set", "boundary_iou.width_mm=3", "--nsd-tolerance-mm", "2"
    )
    options = document(result)["metrics"]["definitions"]["options"]
    assert options == {"nsd": {"tolerance_mm": 2.0}, "boundary_iou": {"width_mm": 3}}


@pytest.mark.parametrize("setting", ["boundary_iou=3", "nsd.tolerance_mm=far", "width_mm"])
def test_an_option_without_its_metric_or_number_is_refused(folders, tmp_path: Path, setting: str):
    result = evaluate(folders, tmp_path / "OUT", "--set", setting)
    assert result.exit_code == 2 and "METRIC.OPTION" in result.stderr


def test_an_unknown_metric_is_refused_with_the_nearest(folders, tmp_path: Path):
    result = evaluate(folders, tmp_path / "OUT", "--metrics", "dise")
    assert result.exit_code == 2 and "`dice`" in result.stderr


def test_groups_and_patients_come_from_a_table(folders, tmp_path: Path):
    table = tmp_path / "groups.csv"
    lines = [f"{name},p{number // 2},{'AB'[number % 2]}" for number, name in enumerate(NAMES)]
    table.write_text("\n".join(["id,patient,site", *lines]))
    found = document(evaluate(folders, tmp_path / "OUT", "--groups", table))["metrics"]
    assert list(found["groups"]) == ["site"]
    assert {name: row["n_cases"] for name, row in found["groups"]["site"].items()} == {"A": 4, "B": 3}
    assert found["intervals"]["patients"] == 4 and found["labels"]["1"]["ci95"]["dice"] is None
    assert "p0" not in (tmp_path / "OUT/metrics.json").read_text()


@pytest.mark.parametrize("column", ["Patient", "patient_id", "MRN", "PatientName", "Birth date"])
def test_a_column_that_seems_to_name_people_is_refused(folders, tmp_path: Path, column: str):
    (tmp_path / "groups.csv").write_text(f"id,{column}\nc0,Smith\n")
    result = evaluate(folders, tmp_path / "OUT", "--groups", tmp_path / "groups.csv")
    assert result.exit_code == 2 and f"the column `{column}`" in result.stderr
    assert not (tmp_path / "OUT").exists()


def test_a_table_of_other_cases_is_refused(folders, tmp_path: Path):
    (tmp_path / "groups.csv").write_text("id,site\nscan-1,A\n")
    result = evaluate(folders, tmp_path / "OUT", "--groups", tmp_path / "groups.csv")
    assert result.exit_code == 2 and "lists none of the 7 cases" in result.stderr


def test_cases_that_the_table_lacks_are_warned_of(folders, tmp_path: Path, caplog):
    (tmp_path / "groups.csv").write_text("id,site\nc0,A\n")
    assert evaluate(folders, tmp_path / "OUT", "--groups", tmp_path / "groups.csv").exit_code == 0
    assert "GROUPS_PARTIAL the table of groups does not list 6 of 7 cases, such as `c1`" in caplog.text


def test_the_summary_says_whether_patients_are_known(folders, tmp_path: Path):
    found = document(evaluate(folders, tmp_path / "OUT"))["metrics"]
    assert found["intervals"]["whose"] == "not known: every case counts as one"


def test_of_pictures_lengths_are_pixels(tmp_path: Path):
    array = np.zeros((8, 6, 1), np.uint8)
    array[2:5, 2:5] = 1
    for folder in ("reference", "predicted"):
        write_labels(tmp_path / folder / "a.png", Labels(array, Geometry.of_spacing(array.shape, (1, 1, 1))))
    result = evaluate((tmp_path / "reference", tmp_path / "predicted"), tmp_path / "OUT")
    assert document(result)["metrics"]["definitions"]["units"].startswith("pixels")
    assert "HD95 0.0 px" in result.stderr


def test_integers_of_any_type_and_size_are_labels(tmp_path: Path):
    for folder, kind in (("reference", np.uint32), ("predicted", np.uint64)):
        array = np.zeros(GRID.shape, kind)
        array[1:3, 1:3, 1:3] = 614_454_277
        write_labels(tmp_path / folder / "a.nii.gz", Labels(array, GRID))
    result = evaluate((tmp_path / "reference", tmp_path / "predicted"), tmp_path / "OUT")
    assert document(result)["metrics"]["labels"]["614454277"]["dice"] == 1


@pytest.mark.parametrize("text", ["name,site\nc0,A\n", "id,site\nc0,A\nc0,B\n", "", "id\n\xff"])
def test_a_table_that_is_none_is_refused(folders, tmp_path: Path, text: str):
    (tmp_path / "groups.csv").write_bytes(text.encode("latin-1"))
    result = evaluate(folders, tmp_path / "OUT", "--groups", tmp_path / "groups.csv")
    assert result.exit_code == 2 and "GROUPS_INVALID" in result.stderr


def test_instances_are_objects_of_one_class(folders, tmp_path: Path):
    result = evaluate(folders, tmp_path / "OUT", "--instances", "--metrics", "panoptic")
    labels = document(result)["metrics"]["labels"]
    assert list(labels) == ["1"] and labels["1"]["name"] == "instances"
    assert labels["1"]["rq"] == pytest.approx(6 / 7, abs=1e-6)  # of c6 just half is found


def write_certain(folders, name: str, channels: int = 3) -> None:
    """Every voxel is background, at 0.8 of certainty."""
    p = np.zeros((*GRID.shape, channels), np.float32)
    p[..., 0], p[..., 1] = 0.8, 0.2
    write_probabilities(folders[1] / f"{name}_prob.nii.gz", p, GRID)


def test_probabilities_beside_a_mask_are_judged(folders, tmp_path: Path):
    write_certain(folders, "c0")
    found = document(evaluate(folders, tmp_path / "OUT"))["metrics"]
    share = 1 - 48 / 192
    assert found["calibration"]["ece"] == found["mean"]["ece"] == pytest.approx(abs(share - 0.8), abs=1e-4)
    assert found["labels"]["1"]["ece"] == pytest.approx(abs(0.25 - 0.2), abs=1e-4)
    assert len(found["calibration"]["bins"]) == 15


def test_probabilities_of_labels_that_are_no_plain_count_are_a_warning(folders, tmp_path: Path):
    write_certain(folders, "c6", channels=2)  # which has labels 1 and 2
    (case,) = [c for c in document(evaluate(folders, tmp_path / "OUT"))["cases"] if c["warnings"]]
    assert (case["id"], case["warnings"][0]["code"]) == ("c6", "PROBABILITIES_DIFFER")
    assert "2 channels are not those of the values up to 2" in case["warnings"][0]["message"]


def test_a_map_of_foreground_alone_is_judged(folders, tmp_path: Path):
    write_probabilities(folders[1] / "c0_prob.nii.gz", np.full((*GRID.shape, 1), 0.2, np.float32), GRID)
    found = document(evaluate(folders, tmp_path / "OUT"))["metrics"]
    assert found["labels"]["1"]["ece"] == pytest.approx(abs(0.25 - 0.2), abs=1e-4)


def test_a_sidecar_says_what_channels_are(folders, tmp_path: Path):
    write_certain(folders, "c0", channels=2)
    regions = [{"name": "none", "labels": [2]}, {"name": "all", "labels": [1]}]
    write_json(folders[1] / "c0.json", {"probabilities": {"regions": regions}})
    found = document(evaluate(folders, tmp_path / "OUT", "--region", "all=1"))["metrics"]["regions"]
    assert found["all"]["ece"] == pytest.approx(abs(0.25 - 0.2), abs=1e-4)


@pytest.mark.parametrize("told", [{"labels": ["1"]}, {"regions": [1]}, {"regions": [{"name": "a"}]}])
def test_a_sidecar_that_says_nonsense_is_a_warning(folders, tmp_path: Path, told: object):
    write_certain(folders, "c0", channels=2)
    write_json(folders[1] / "c0.json", {"probabilities": told})
    (case,) = [c for c in document(evaluate(folders, tmp_path / "OUT"))["cases"] if c["warnings"]]
    assert "the sidecar does not say" in case["warnings"][0]["message"]


def test_channels_that_may_be_regions_or_classes_are_a_warning(folders, tmp_path: Path):
    write_certain(folders, "c0", channels=2)
    asked = ("--labels", "1", "--region", "all=1", "--region", "both=1,2")
    (case,) = [c for c in document(evaluate(folders, tmp_path / "OUT", *asked))["cases"] if c["warnings"]]
    assert "may be the regions" in case["warnings"][0]["message"]


def test_regions_are_scored_as_a_whole_and_by_group(folders, tmp_path: Path):
    table = tmp_path / "groups.csv"
    table.write_text("id,site\n" + "".join(f"{name},{'AB'[name > 'c3']}\n" for name in NAMES))
    asked = ("--labels", "1=organ,2=spot", "--region", "whole=1,2", "--groups", table)
    found = document(evaluate(folders, tmp_path / "OUT", *asked))["metrics"]
    assert [row["name"] for row in found["labels"].values()] == ["organ", "spot"]
    # c6: 24 of the 49 voxels of both labels are found, all others of 48.
    assert found["groups"]["site"]["A"]["regions"]["whole"]["n"] == 4
    rows = [row for row in read(tmp_path / "OUT") if row["label"] == "region"]
    assert float(rows[6]["iou"]) == pytest.approx(24 / 49, abs=1e-6)


@pytest.mark.parametrize("region", ["whole", "=1", "whole=a", "whole=0,1"])
def test_a_region_that_is_none_is_refused(folders, tmp_path: Path, region: str):
    result = evaluate(folders, tmp_path / "OUT", "--region", region)
    assert result.exit_code == 2 and "is not NAME=NUMBERS" in result.stderr


def test_probabilities_of_other_labels_are_a_warning(folders, tmp_path: Path):
    write_certain(folders, "c0")
    result = evaluate(folders, tmp_path / "OUT", "--labels", "1")
    (case,) = [case for case in document(result)["cases"] if case["id"] == "c0"]
    assert result.exit_code == 0 and case["warnings"][0]["code"] == "PROBABILITIES_DIFFER"
    assert "calibration" not in document(result)["metrics"]


def test_probabilities_on_another_grid_are_a_warning(folders, tmp_path: Path):
    write_probabilities(
        folders[1] / "c0_prob.nii.gz", np.zeros((*GRID.shape, 3)), Geometry.of_spacing(GRID.shape, (1, 2, 4))
    )
    (case,) = [c for c in document(evaluate(folders, tmp_path / "OUT"))["cases"] if c["warnings"]]
    assert (case["id"], case["warnings"][0]["code"]) == ("c0", "GRID_MISMATCH")
