"""inspect: a verdict a series, with the numbers that decided; only images that cannot be read are faults."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import ConfigError, DataError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.io import write_volume
from medseg.workflows.convert import convert
from medseg.workflows.inspect import Findings, inspect
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.scans import Request
from tests.bad_nifti import BAD_IMAGES
from tests.dicom_edits import drop, put, raw, tilted
from tests.dicom_files import Grid, Store, write_series
from tests.dicom_objects import write_localizer, write_report, write_screenshot, write_structures

KEYS = {
    *("number", "series_id", "modality", "shape", "spacing_mm", "slices", "verdict", "code"),
    *("message", "hint", "warnings", "volumes", "study", "structures", "channels"),
}


@pytest.fixture
def look(tmp_path: Path):
    def work(path: Path) -> tuple[Findings, Report]:
        report = Report("inspect")
        return inspect(path, report=report, key_file=tmp_path / "home" / "key"), report

    return work


def series(report: Report) -> list[dict]:
    return json.loads(json.dumps(report.to_json()))["series"]


def test_a_good_series_is_accepted_with_its_grid(look, tmp_path: Path):
    write_series(tmp_path / "scan", kind="MR")
    (row,) = series(look(tmp_path / "scan")[1])
    assert set(row) == KEYS
    assert (row["number"], row["modality"], row["verdict"], row["code"]) == (1, "MR", "accept", None)
    assert (row["shape"], row["spacing_mm"], row["slices"]) == ([7, 6, 5], [0.75, 1.25, 3.0], 5)


def test_the_id_is_the_one_that_converting_gives(look, tmp_path: Path):
    write_series(tmp_path / "scan")
    (row,) = series(look(tmp_path / "scan")[1])
    report = Report("convert")
    key_file = tmp_path / "home" / "key"
    paths, out = [tmp_path / "scan"], tmp_path / "OUT"
    convert(paths, out, Request(), progress=Progress(), report=report, key_file=key_file)
    assert [case.id for case in report.cases] == [row["series_id"]]


@pytest.mark.parametrize(
    ("grid", "plan", "verdict", "code"),
    [
        (Grid(), {"edit": put(PhotometricInterpretation="MONOCHROME1")}, "warn", "DICOM_MONOCHROME1"),
        (tilted(10.0), {}, "repair", "DICOM_TILT"),
        (Grid(at=(0, 1, 2.3, 3, 4)), {}, "repair", "DICOM_SPACING"),
        (Grid(at=(0, 1, 3, 4, 5)), {}, "reject", "DICOM_GAP"),
        (Grid(), {"edit": drop("PixelSpacing")}, "reject", "DICOM_PIXEL_SPACING"),
    ],
    ids=["monochrome1", "tilt", "uneven", "gap", "no spacing"],
)
def test_a_verdict_says_what_reading_would(
    grid: Grid, plan: dict, verdict: str, code: str, look, tmp_path: Path
):
    write_series(tmp_path / "scan", grid, **plan)
    (row,) = series(look(tmp_path / "scan")[1])
    assert (row["verdict"], row["code"]) == (verdict, code)


def test_a_refused_series_has_reason_slices_and_id_but_no_grid(look, tmp_path: Path):
    write_series(tmp_path / "scan", Grid(at=(0, 1, 3, 4, 5)))
    _, report = look(tmp_path / "scan")
    (row,) = series(report)
    assert "6 mm" in row["message"] and row["hint"] and row["slices"] == 5
    assert row["shape"] is None and row["spacing_mm"] is None and row["series_id"].startswith("dcm-")
    assert report.exit_code == 3 and [case.id for case in report.bad_cases] == [row["series_id"]]


@pytest.mark.parametrize(
    "plan", [{}, {"edit": put(PhotometricInterpretation="MONOCHROME1")}], ids=["", "warn"]
)
def test_what_can_be_read_is_no_fault(plan: dict, look, tmp_path: Path):
    write_series(tmp_path / "scan", **plan)
    assert look(tmp_path / "scan")[1].exit_code == 0


def test_volumes_to_choose_from_are_listed_by_number(look, tmp_path: Path):
    for n in range(2):
        write_series(tmp_path / "scan", kind="MR", first=10 * n, edit=put(EchoTime=20 + n))
    _, report = look(tmp_path / "scan")
    (row,) = series(report)
    assert (row["verdict"], row["code"], row["slices"]) == ("choose", "SERIES_AMBIGUOUS", 10)
    assert [(v["number"], v["verdict"], v["slices"]) for v in row["volumes"]] == [
        (1, "accept", 5),
        (2, "accept", 5),
    ]
    assert [v["label"].split(".")[0] for v in row["volumes"]] == ["echo time 20", "echo time 21"]
    assert report.exit_code == 0


def test_studies_are_numbered(look, tmp_path: Path):
    write_series(tmp_path / "in" / "a", study=1, patient="P-1")
    write_series(tmp_path / "in" / "b", study=2, patient="P-2")
    assert [row["study"] for row in series(look(tmp_path / "in")[1])] == [1, 2]


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (write_localizer(30), "DICOM_LOCALIZER"),
        (write_report, "DICOM_NOT_IMAGE"),
        (write_structures, "DICOM_NOT_IMAGE"),
        (write_screenshot, "DICOM_COLOUR"),
    ],
    ids=["localizer", "report", "structures", "screenshot"],
)
def test_what_lies_beside_a_scan_is_listed_and_is_no_fault(write, code: str, look, tmp_path: Path):
    write_series(tmp_path / "in" / "scan")
    write(tmp_path / "in" / "more")
    _, report = look(tmp_path / "in")
    assert sorted((row["verdict"], row["code"]) for row in series(report) if row["code"]) == [
        ("reject", code)
    ]
    assert len(series(report)) == 2 and report.exit_code == 0


def test_a_screenshot_alone_is_a_fault(look, tmp_path: Path):
    write_screenshot(tmp_path / "in")
    assert look(tmp_path / "in")[1].exit_code == 3


def test_structures_are_counted_and_their_names_stay_out_of_the_report(look, tmp_path: Path):
    write_series(tmp_path / "in")
    write_rois(tmp_path / "in" / "rt.dcm", ["GTV Smith", "lung"])
    found, report = look(tmp_path / "in")
    (row,) = [row for row in series(report) if row["modality"] == "RTSTRUCT"]
    assert row["structures"] == 2 and "Smith" not in json.dumps(report.to_json())
    assert [entry.names for entry in found.entries if entry.names] == [["GTV Smith", "lung"]]


def write_rois(path: Path, names: list[str]) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as Items

    from tests.dicom_objects import RTStructureSetStorage, write_bare

    items = []
    for number, name in enumerate(names, start=1):
        item = Dataset()
        item.ROINumber, item.ROIName = number, name
        items.append(item)
    more = {"StructureSetROISequence": Items(items), "ROIContourSequence": Items([])}
    write_bare(path.name, RTStructureSetStorage, "RTSTRUCT", 55, **more)(path.parent)


def test_structures_that_are_cut_off_are_a_fault(look, tmp_path: Path):
    write_series(tmp_path / "in")
    write_rois(tmp_path / "in" / "rt.dcm", ["a", "b"])
    content = (tmp_path / "in" / "rt.dcm").read_bytes()
    (tmp_path / "in" / "rt.dcm").write_bytes(content[: content.index(b"b ") - 4])
    _, report = look(tmp_path / "in")
    assert [case.code for case in report.bad_cases] == ["DICOM_DAMAGED"]


def write_image(path: Path, channels: int = 1) -> None:
    grid = Geometry.of_spacing((2, 3, 4), (1.0, 1.5, 3.0))
    write_volume(path, Volume(np.zeros((channels, 2, 3, 4), np.int16), grid))


def test_other_formats_are_read_to_their_end(look, tmp_path: Path):
    write_image(tmp_path / "in" / "a.nii.gz", channels=2)
    write_image(tmp_path / "in" / "deep" / "b.mha")
    BAD_IMAGES["truncated"](tmp_path / "in" / "c.nii.gz")
    found, report = look(tmp_path / "in")
    rows = {row["series_id"]: row for row in series(report)}
    assert (rows["a"]["shape"], rows["a"]["channels"], rows["a"]["modality"]) == ([2, 3, 4], 2, None)
    assert (rows["b"]["verdict"], rows["c"]["verdict"]) == ("accept", "reject")
    assert [case.id for case in report.bad_cases] == ["c"]
    assert [entry.place for entry in found.entries] == ["a.nii.gz", "c.nii.gz", "deep/b.mha"]


def test_one_image_file_is_looked_at_alone(look, tmp_path: Path):
    write_image(tmp_path / "in" / "a.nii.gz")
    assert [row["series_id"] for row in series(look(tmp_path / "in" / "a.nii.gz")[1])] == ["a"]


def test_mixed_folders_are_told(look, tmp_path: Path):
    write_series(tmp_path / "in")
    write_image(tmp_path / "in" / "a.nii.gz")
    _, report = look(tmp_path / "in")
    assert [warning["code"] for warning in report.extra["warnings"]] == ["INPUT_MIXED"]
    assert [row["number"] for row in series(report)] == [1, 2] and report.exit_code == 0


def test_other_and_damaged_files_are_counted_and_not_named_in_the_report(look, tmp_path: Path):
    write_series(tmp_path / "in" / "scan")
    (tmp_path / "in" / "notes.txt").write_text("hello")
    (tmp_path / "in" / "x").mkdir()
    (tmp_path / "in" / "x" / "Smith.dcm").write_bytes(bytes(128) + b"DICM")
    found, report = look(tmp_path / "in")
    tree = report.to_json()
    assert (tree["others"], tree["damaged"], tree["exit_code"]) == (1, 1, 3)
    assert [name for name, _ in found.damaged] == ["x/Smith.dcm"] and "Smith" not in json.dumps(tree)


def test_a_modality_that_is_no_code_word_is_left_out(look, tmp_path: Path):
    write_series(tmp_path / "scan", edit=raw("Modality", b"Mr Smith", "CS"))
    (row,) = series(look(tmp_path / "scan")[1])
    assert row["modality"] is None


def test_one_file_of_many_frames_is_one_series(look, tmp_path: Path):
    write_series(tmp_path / "scan", replace(Grid(), at=(0.0,)), store=Store())
    (row,) = series(look(tmp_path / "scan" / "slice_000.dcm")[1])
    assert (row["verdict"], row["slices"], row["spacing_mm"]) == ("accept", 1, [0.75, 1.25, 3.0])


def test_nothing_to_look_at_says_so(look, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="none of 1 files"):
        look(tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        look(tmp_path / "nowhere")


def test_a_pipe_is_neither_file_nor_folder(look, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError) as caught:
        look(tmp_path / "pipe")
    assert caught.value.code == "INPUT_MISSING"
