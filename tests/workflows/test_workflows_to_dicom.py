"""to-dicom: a mask becomes objects of the series it was drawn on, and reads back as it was."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import ConfigError
from medseg.core.files import write_json
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, from_canonical, to_canonical
from medseg.data.cases import read_key
from medseg.data.studies import Wanted
from medseg.io import write_labels
from medseg.io.dicom import find_series, scan_id
from medseg.io.dicom.labels.derived import list_structures
from medseg.io.dicom.labels.rtstruct import read_rtstruct
from medseg.io.dicom.labels.seg import read_seg
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.to_dicom import Export, parse_labels, parse_names, to_dicom
from tests.dicom_edits import put
from tests.dicom_enhanced import Part, write_enhanced
from tests.dicom_files import Grid, write_series
from tests.tiny import hashes

OBLIQUE = Grid().turned(20, -15, 30)


@pytest.fixture
def run(tmp_path: Path):
    """Export a mask of the series in `scan` and return the result."""

    def work(mask: Path, *, formats: tuple[str, ...] = ("dicom-seg",), **more: object) -> CaseResult:
        export = Export(formats, more.pop("names", {}), more.pop("seg_type", "binary"))
        source, out = tmp_path / "scan", more.pop("out", tmp_path / "OUT")
        report = Report("to-dicom")
        to_dicom(
            mask,
            source,
            out,
            export,
            Wanted(**more),
            progress=Progress(),
            report=report,
            key_file=tmp_path / "home" / "key",
        )
        (result,) = report.cases
        return result

    return work


def first_scan(folder: Path):
    (series, *_) = find_series(folder).series
    return series.candidates[0].scan


def write_mask(path: Path, geometry: Geometry, *, values: tuple[int, int] = (1, 2)) -> Labels:
    array = np.zeros(geometry.shape, np.uint8)
    array[1:4, 2:5, 1:3] = values[0]
    array[5, 1, 4] = values[1]
    write_labels(path, Labels(array, geometry))
    return Labels(array, geometry)


@pytest.mark.parametrize("grid", [Grid(), OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize(("name", "read"), [("dicom-seg", read_seg), ("rtstruct", read_rtstruct)])
def test_a_mask_comes_back_as_it_was(name: str, read, grid: Grid, run, tmp_path: Path):
    write_series(tmp_path / "scan", grid)
    scan = first_scan(tmp_path / "scan")
    mask = write_mask(tmp_path / "m.nii.gz", scan.geometry)
    result = run(tmp_path / "m.nii.gz", formats=(name,), names={1: "liver", 2: "tumour"})
    assert result.status == "done"
    back = read(tmp_path / "OUT" / result.outputs[0], scan, {"liver": 1, "tumour": 2})
    assert np.array_equal(back.array, mask.array)


def test_both_formats_are_written_beside_a_sidecar(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    result = run(tmp_path / "m.nii.gz", formats=("dicom-seg", "rtstruct"))
    assert result.outputs == ["m.seg.dcm", "m.rtstruct.dcm", "m.dicom.json"]
    found = sorted(path.name for path in (tmp_path / "OUT").iterdir())
    assert found == sorted([*result.outputs, "report.json"])


def test_a_mask_stored_in_another_order_of_axes_fits(run, tmp_path: Path):
    write_series(tmp_path / "scan", OBLIQUE)
    scan = first_scan(tmp_path / "scan")
    mask = write_mask(tmp_path / "x.nii.gz", scan.geometry)
    write_labels(tmp_path / "m.nii.gz", Labels(*to_canonical(mask.array, scan.geometry)))
    result = run(tmp_path / "m.nii.gz", names={1: "a", 2: "b"})
    back = read_seg(tmp_path / "OUT" / result.outputs[0], scan, {"a": 1, "b": 2})
    assert np.array_equal(back.array, mask.array)
    canonical = to_canonical(back.array, scan.geometry)[0]
    assert np.array_equal(from_canonical(canonical, scan.geometry), mask.array)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: replace(g, affine=g.affine + shift(2.0)),
        lambda g: Geometry((7, 6, 4), g.affine),
        lambda g: replace(g, affine=g.affine @ np.diag([2.0, 1, 1, 1])),
    ],
    ids=["moved", "other shape", "other spacing"],
)
def test_a_mask_on_another_grid_is_refused(change, run, tmp_path: Path):
    write_series(tmp_path / "scan")
    geometry = first_scan(tmp_path / "scan").geometry
    write_labels(tmp_path / "m.nii.gz", Labels(np.ones(change(geometry).shape, np.uint8), change(geometry)))
    result = run(tmp_path / "m.nii.gz")
    assert (result.status, result.code) == ("rejected", "GRID_MISMATCH")
    assert "the scan 7 x 6 x 5 voxels of 0.75 x 1.25 x 3 mm from 13 -21 40" in (result.message or "")
    assert not (tmp_path / "OUT" / "m.seg.dcm").exists()


def shift(by_mm: float) -> np.ndarray:
    moved = np.zeros((4, 4))
    moved[0, 3] = by_mm
    return moved


def test_a_refusal_removes_what_an_earlier_run_left(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    geometry = first_scan(tmp_path / "scan").geometry
    write_mask(tmp_path / "m.nii.gz", geometry)
    run(tmp_path / "m.nii.gz")
    write_mask(tmp_path / "m.nii.gz", replace(geometry, affine=geometry.affine + shift(2.0)))
    assert run(tmp_path / "m.nii.gz").status == "rejected"
    assert [path.name for path in (tmp_path / "OUT").iterdir()] == ["report.json"]


def test_names_come_from_the_option_the_sidecar_or_the_number(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    run(tmp_path / "m.nii.gz")
    assert list_structures(tmp_path / "OUT" / "m.seg.dcm") == [(1, "label 1"), (2, "label 2")]
    write_json(tmp_path / "m.json", {"labels": {"1": {"name": "liver"}, "2": {"name": "lesion"}}})
    run(tmp_path / "m.nii.gz")
    assert list_structures(tmp_path / "OUT" / "m.seg.dcm") == [(1, "liver"), (2, "lesion")]
    run(tmp_path / "m.nii.gz", names={1: "spleen"})
    assert list_structures(tmp_path / "OUT" / "m.seg.dcm") == [(1, "spleen"), (2, "label 2")]


def test_an_empty_mask_is_reported_as_no_finding(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    geometry = first_scan(tmp_path / "scan").geometry
    write_labels(tmp_path / "m.nii.gz", Labels(np.zeros(geometry.shape, np.uint8), geometry))
    result = run(tmp_path / "m.nii.gz", formats=("dicom-seg", "rtstruct"), names={1: "liver"})
    assert result.status == "done" and [code for code, _ in result.warnings] == ["MASK_EMPTY"]
    assert list_structures(tmp_path / "OUT" / "m.rtstruct.dcm") == [(1, "liver")]


def test_the_same_command_again_skips_what_is_done(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    run(tmp_path / "m.nii.gz", names={1: "a", 2: "b"})
    before = hashes(tmp_path / "OUT")
    again = run(tmp_path / "m.nii.gz", names={1: "a", 2: "b"})
    before.pop("report.json")
    assert again.status == "skipped" and before.items() <= hashes(tmp_path / "OUT").items()
    assert run(tmp_path / "m.nii.gz", names={1: "a", 2: "c"}).status == "done"


def test_among_several_series_the_one_with_the_masks_id_is_taken(run, tmp_path: Path):
    for n in (1, 2):
        write_series(tmp_path / "scan" / str(n), replace(Grid(), origin_mm=(-13.0, 21.0, 40.0 * n)), series=n)
    scan = find_series(tmp_path / "scan").series[1].candidates[0].scan
    name = scan_id(scan, read_key(tmp_path / "home" / "key"))
    write_mask(tmp_path / f"{name}.nii.gz", scan.geometry)
    assert run(tmp_path / f"{name}.nii.gz").status == "done"


def test_several_series_are_not_guessed_between(run, tmp_path: Path):
    for n in (1, 2):
        write_series(tmp_path / "scan" / str(n), series=n)
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    assert run(tmp_path / "m.nii.gz").code == "SERIES_AMBIGUOUS"
    assert run(tmp_path / "m.nii.gz", series="2").status == "done"


def test_the_algorithm_is_medseg_only_where_the_sidecar_names_a_model(run, tmp_path: Path):
    from pydicom import dcmread

    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    run(tmp_path / "m.nii.gz")
    assert dcmread(tmp_path / "OUT" / "m.seg.dcm").SegmentSequence[0].SegmentAlgorithmName == "unknown"
    write_json(tmp_path / "m.json", {"labels": {}, "model_sha256": "ab", "versions": {"medseg": "0.0.7"}})
    run(tmp_path / "m.nii.gz")
    segment = dcmread(tmp_path / "OUT" / "m.seg.dcm").SegmentSequence[0]
    assert segment.SegmentAlgorithmName == "medseg"


def test_a_label_map_keeps_the_numbers_of_labels(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry, values=(3, 7))
    run(tmp_path / "m.nii.gz", seg_type="labelmap", names={3: "a", 7: "b"})
    assert list_structures(tmp_path / "OUT" / "m.seg.dcm") == [(3, "a"), (7, "b")]


def test_an_output_folder_among_the_inputs_is_refused(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    for out in (tmp_path, tmp_path / "scan", tmp_path / "scan" / "below"):
        with pytest.raises(ConfigError) as caught:
            run(tmp_path / "m.nii.gz", out=out)
        assert caught.value.code == "OUT_HOLDS_INPUT"


def test_a_mask_that_is_no_image_or_not_there_is_a_usage_error(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    (tmp_path / "m.txt").write_text("hello")
    for path in (tmp_path / "m.txt", tmp_path / "nowhere.nii.gz"):
        with pytest.raises(ConfigError):
            run(path)


def test_options_are_parsed_or_refused():
    assert parse_labels("1=liver, 2=left kidney") == {1: "liver", 2: "left kidney"}
    assert parse_names("rtstruct,dicom-seg", ("dicom-seg", "rtstruct")) == ("rtstruct", "dicom-seg")
    for text in ("1", "0=a", "a=b", "1=a,1=b", "1="):
        with pytest.raises(ConfigError):
            parse_labels(text)
    with pytest.raises(ConfigError, match="--format knows no `rtstrukt`"):
        parse_names("rtstrukt", ("dicom-seg", "rtstruct"))


def test_the_sidecar_names_no_file_and_no_uid(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    scan = first_scan(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", scan.geometry)
    run(tmp_path / "m.nii.gz")
    text = (tmp_path / "OUT" / "m.dicom.json").read_text()
    assert scan.first.series not in text and str(tmp_path) not in text
    assert [label["name"] for label in json.loads(text)["labels"].values()] == ["label 1", "label 2"]


def test_the_sidecar_holds_what_the_objects_were_made_of(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    run(tmp_path / "m.nii.gz", names={1: "liver", 2: "cyst"})
    tree = json.loads((tmp_path / "OUT" / "m.dicom.json").read_text())
    assert tree["id"] == "m" and set(tree["versions"]) == {"medseg", "numpy", "pydicom", "highdicom"}
    assert tree["labels"] == {  # voxels of 0.75 x 1.25 x 3 mm
        "1": {"name": "liver", "volume_ml": 0.050625},
        "2": {"name": "cyst", "volume_ml": 0.0028125},
    }
    repairs = {"allow_tilt": False, "allow_resample_z": False, "slice_thickness_mm": None}
    assert tree["settings"] == repairs | {"seg_type": "binary"}


def test_another_mask_takes_the_objects_of_the_old_one_away(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    geometry = first_scan(tmp_path / "scan").geometry
    write_mask(tmp_path / "m.nii.gz", geometry)
    run(tmp_path / "m.nii.gz", formats=("dicom-seg", "rtstruct"))
    write_mask(tmp_path / "m.nii.gz", geometry, values=(2, 1))
    assert run(tmp_path / "m.nii.gz").status == "done"
    assert not (tmp_path / "OUT" / "m.rtstruct.dcm").exists()


def test_of_the_same_mask_a_format_more_or_less_takes_nothing_away(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    kinds = [("dicom-seg",), ("rtstruct",), ("dicom-seg",), ("dicom-seg", "rtstruct")]
    states = [run(tmp_path / "m.nii.gz", formats=formats).status for formats in kinds]
    assert states == ["done", "done", "skipped", "skipped"]
    assert len(list((tmp_path / "OUT").glob("m.*.dcm"))) == 2


def test_a_replaced_object_that_is_not_asked_for_goes(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    run(tmp_path / "m.nii.gz")
    (tmp_path / "OUT" / "m.seg.dcm").write_bytes(b"other")
    run(tmp_path / "m.nii.gz", formats=("rtstruct",))
    assert sorted(path.name for path in (tmp_path / "OUT").glob("*.dcm")) == ["m.rtstruct.dcm"]


def test_a_name_of_a_label_that_the_mask_does_not_hold_is_a_warning(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    result = run(tmp_path / "m.nii.gz", names={1: "liver", 3: "cyst"})
    assert result.status == "done" and [code for code, _ in result.warnings] == ["LABEL_UNUSED"]
    assert "names 3," in result.warnings[0][1]


def test_a_series_is_named_by_the_id_that_inspect_shows(run, tmp_path: Path):
    for n in (1, 2):
        write_series(tmp_path / "scan" / str(n), series=n)
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    name = name_of(tmp_path, tmp_path / "scan" / "2")
    assert run(tmp_path / "m.nii.gz", series=name).status == "done"
    with pytest.raises(ConfigError, match="no such series"):
        run(tmp_path / "m.nii.gz", series="dcm-000000000000")


def test_another_volume_of_one_file_is_written_again(run, tmp_path: Path):
    def at(time: int):
        return lambda item: setattr(item.FrameContentSequence[0], "TemporalPositionIndex", time)

    write_enhanced(tmp_path / "scan" / "e.dcm", [Part(k, edit=at(n)) for n in (1, 2) for k in range(5)])
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    states = [run(tmp_path / "m.nii.gz", series="1", volume=n).status for n in (1, 2, 2)]
    assert states == ["done", "done", "skipped"]


def name_of(tmp_path: Path, folder: Path) -> str:
    return scan_id(first_scan(folder), read_key(tmp_path / "home" / "key"))


def test_a_mask_of_another_patient_is_refused_unless_the_series_is_named(run, tmp_path: Path):
    write_series(tmp_path / "other", patient="P-1", study=1)
    write_series(tmp_path / "scan", patient="P-2", study=2)
    mask = tmp_path / f"{name_of(tmp_path, tmp_path / 'other')}.nii.gz"
    write_mask(mask, first_scan(tmp_path / "other").geometry)
    assert run(mask).code == "LABEL_REFERENCE"
    assert not list((tmp_path / "OUT").glob("*.seg.dcm"))
    assert run(mask, series="1").status == "done"


def test_a_renamed_mask_belongs_to_the_scan_that_its_sidecar_names(run, tmp_path: Path):
    for n, folder in enumerate(("other", "scan")):
        write_series(tmp_path / folder, patient=f"P-{n}", study=n)
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    write_json(tmp_path / "m.json", {"id": name_of(tmp_path, tmp_path / "other")})
    assert run(tmp_path / "m.nii.gz").code == "LABEL_REFERENCE"
    write_json(tmp_path / "m.json", {"id": name_of(tmp_path, tmp_path / "scan")})
    assert run(tmp_path / "m.nii.gz").status == "done"


def test_a_mask_of_one_volume_is_not_written_onto_another(run, tmp_path: Path):
    for n in (0, 1):
        write_series(tmp_path / "scan", kind="MR", first=5 * n, edit=put(EchoTime=str(10 + 20 * n)))
    mask = tmp_path / f"{name_of(tmp_path, tmp_path / 'scan')}.nii.gz"
    assert mask.name.endswith("-v1.nii.gz")
    write_mask(mask, first_scan(tmp_path / "scan").geometry)
    assert run(mask).status == "done"
    assert run(mask, volume=2).code == "LABEL_REFERENCE"


def test_a_mask_whose_scan_is_refused_says_why(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    mask = tmp_path / f"{name_of(tmp_path, tmp_path / 'scan')}.nii.gz"
    write_mask(mask, first_scan(tmp_path / "scan").geometry)
    (tmp_path / "scan" / "slice_002.dcm").unlink()
    assert run(mask).code == "DICOM_GAP"


def test_an_object_that_was_replaced_is_written_again(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", first_scan(tmp_path / "scan").geometry)
    run(tmp_path / "m.nii.gz")
    (tmp_path / "OUT" / "m.seg.dcm").write_bytes(b"other")
    assert run(tmp_path / "m.nii.gz").status == "done"
    assert list_structures(tmp_path / "OUT" / "m.seg.dcm") == [(1, "label 1"), (2, "label 2")]


def test_a_pipe_is_no_source(run, tmp_path: Path):
    os.mkfifo(tmp_path / "scan")
    write_mask(tmp_path / "m.nii.gz", Geometry.of_spacing((7, 6, 5), (1, 1, 1)))
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "m.nii.gz")
    assert caught.value.code == "INPUT_MISSING"
