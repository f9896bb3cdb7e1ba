"""convert: what comes out lies where the slices lay, says how it was made, and is made once."""

import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import ConfigError, DataError
from medseg.core.files import sha256_of_file
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.io import read_volume, write_volume
from medseg.workflows.convert import convert
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.scans import Request
from tests.bad_nifti import BAD_IMAGES
from tests.dicom_edits import drop, put, tilted
from tests.dicom_enhanced import Part, write_enhanced
from tests.dicom_files import Grid, Ramp, Store, Truth, make_uid, write_series
from tests.dicom_objects import write_localizer, write_report, write_screenshot, write_structures
from tests.tiny import medseg

AXIAL = Grid()
OBLIQUE = AXIAL.turned(20, -15, 30)


@pytest.fixture
def run(tmp_path: Path):
    """Convert paths below the test's folder into OUT and return the results by id."""

    def work(*paths: Path, out: str = "OUT", is_pseudonymous: bool = False, **request: object):
        report = Report("convert")
        convert(
            paths,
            tmp_path / out,
            Request(**request),
            progress=Progress(),
            report=report,
            key_file=tmp_path / "home" / "pseudonym.key",
            is_pseudonymous=is_pseudonymous,
        )
        return {case.id: case for case in report.cases}

    return work


def only(results: dict[str, CaseResult]) -> CaseResult:
    (result,) = results.values()
    return result


def check_ramp(path: Path, truth: Truth) -> None:
    """Compare every voxel with the ramp at the place where the file says it lies."""
    image = nib.load(path)
    index = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), axis=-1)
    lps = nib.affines.apply_affine(image.affine, index) * [-1, -1, 1]
    assert np.abs(image.get_fdata() - truth.ramp.at(lps)).max() <= truth.slack
    assert np.abs(image.affine - truth.grid.affine_ras).max() < 1e-4


def write_times(path: Path) -> None:
    """Write one enhanced file of two time points."""

    def at(time: int):
        return lambda item: setattr(item.FrameContentSequence[0], "TemporalPositionIndex", time)

    write_enhanced(path, [Part(k, edit=at(time)) for time in (1, 2) for k in range(5)])


def sidecar(tmp_path: Path, result: CaseResult) -> dict:
    return json.loads((tmp_path / "OUT" / f"{result.id}.json").read_text())


@pytest.mark.parametrize("grid", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_every_voxel_lies_where_its_slice_lay(grid: Grid, run, tmp_path: Path):
    truth = write_series(tmp_path / "scan", grid)
    result = only(run(tmp_path / "scan"))
    assert result.status == "done" and result.outputs == [f"{result.id}.nii.gz", f"{result.id}.json"]
    check_ramp(tmp_path / "OUT" / result.outputs[0], truth)


def test_the_header_says_millimetres_in_both_forms_and_nothing_else(run, tmp_path: Path):
    write_series(tmp_path / "scan", OBLIQUE)
    header = nib.load(tmp_path / "OUT" / only(run(tmp_path / "scan")).outputs[0]).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert header.get_xyzt_units() == ("mm", "unknown") and header.get_data_dtype() == np.uint16
    texts = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
    assert all(not bytes(header[name].tobytes()).strip(b"\0") for name in texts)


def test_the_sidecar_holds_what_it_was_made_of(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    result = only(run(tmp_path / "scan"))
    tree = sidecar(tmp_path, result)
    assert tree["id"] == result.id and tree["model_sha256"] is None and tree["trust"] is None
    assert tree["labels"] == {} and tree["warnings"] == []
    assert tree["grid"]["shape"] == [7, 6, 5] and tree["grid"]["spacing_mm"] == [0.75, 1.25, 3.0]
    assert tree["scan"] == {"modality": "CT", "slices": 5, "repair": "", "source_files": 5}
    assert tree["settings"] == {
        "allow_tilt": False,
        "allow_resample_z": False,
        "slice_thickness_mm": None,
        "suv": False,
        "volume": 0,
    }
    assert set(tree["versions"]) == {"medseg", "numpy", "pydicom"}


def test_an_id_is_a_pseudonym_that_stays_and_belongs_to_this_site(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    first, again = only(run(tmp_path / "scan")), only(run(tmp_path / "scan", out="B"))
    assert first.id == again.id and first.id.startswith("dcm-") and len(first.id) == 16
    (tmp_path / "home" / "pseudonym.key").write_bytes(bytes(32))
    assert only(run(tmp_path / "scan", out="C")).id != first.id


def test_the_same_command_again_skips_what_is_done(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    result = only(run(tmp_path / "scan"))
    before = (tmp_path / "OUT" / result.outputs[0]).stat().st_mtime_ns
    assert only(run(tmp_path / "scan")).status == "skipped"
    assert (tmp_path / "OUT" / result.outputs[0]).stat().st_mtime_ns == before


def test_another_option_converts_again(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    run(tmp_path / "scan")
    assert only(run(tmp_path / "scan", allow_tilt=True)).status == "done"


def test_other_pixels_are_converted_again(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    run(tmp_path / "scan")
    truth = write_series(tmp_path / "scan", ramp=Ramp(base=2000.0))
    result = only(run(tmp_path / "scan"))
    assert result.status == "done"
    check_ramp(tmp_path / "OUT" / result.outputs[0], truth)


@pytest.mark.parametrize("suffix", [".nii.gz", ".json"])
def test_what_was_lost_is_made_again(suffix: str, run, tmp_path: Path):
    write_series(tmp_path / "scan")
    result = only(run(tmp_path / "scan"))
    lost = tmp_path / "OUT" / f"{result.id}{suffix}"
    content = lost.read_bytes()
    lost.unlink()
    assert only(run(tmp_path / "scan")).status == "done" and lost.read_bytes() == content


def test_a_refused_case_leaves_no_file_not_even_an_old_one(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    done = only(run(tmp_path / "scan"))
    (tmp_path / "scan" / "slice_002.dcm").unlink()
    refused = only(run(tmp_path / "scan"))
    assert refused.id == done.id and (refused.status, refused.code) == ("rejected", "DICOM_GAP")
    assert sorted(path.name for path in (tmp_path / "OUT").iterdir()) == ["report.json"]


def test_beside_a_refused_study_the_others_go_on(run, tmp_path: Path):
    write_series(tmp_path / "in" / "good", study=1, patient="P-1")
    write_series(tmp_path / "in" / "bad", study=2, patient="P-2", edit=drop("PixelSpacing"))
    results = run(tmp_path / "in")
    assert sorted((r.status, r.code) for r in results.values()) == [
        ("done", None),
        ("rejected", "DICOM_PIXEL_SPACING"),
    ]


def test_two_series_are_not_guessed_between(run, tmp_path: Path):
    write_series(tmp_path / "in" / "a", series=1)
    write_series(tmp_path / "in" / "b", series=2)
    result = only(run(tmp_path / "in"))
    assert result.code == "SERIES_AMBIGUOUS" and "[1] CT" in (result.message or "")
    assert "[2] CT" in (result.message or "") and "--series" in (result.hint or "")


@pytest.mark.parametrize("series", ["2", str(make_uid(1, 2))], ids=["number", "UID"])
def test_a_series_is_chosen_by_number_or_uid(series: str, run, tmp_path: Path):
    write_series(tmp_path / "in" / "a", series=1)
    truth = write_series(tmp_path / "in" / "b", series=2, ramp=Ramp(base=3000.0))
    result = only(run(tmp_path / "in", series=series))
    check_ramp(tmp_path / "OUT" / result.outputs[0], truth)


def test_a_series_is_chosen_by_the_id_that_it_has_everywhere(run, tmp_path: Path):
    write_series(tmp_path / "in" / "a", series=1)
    write_series(tmp_path / "in" / "b", series=2)
    name = only(run(tmp_path / "in" / "b")).id
    assert only(run(tmp_path / "in", series=name)).id == name
    with pytest.raises(ConfigError, match="no such series"):
        run(tmp_path / "in", series="dcm-000000000000")


def test_a_volume_that_the_only_one_of_a_series_is_not_is_told_in_the_singular(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    with pytest.raises(ConfigError, match="series 1 holds 1 volume, not 2"):
        run(tmp_path / "scan", series="1", volume=2)


def test_all_takes_every_volume_and_no_localizer(run, tmp_path: Path):
    truths = [write_series(tmp_path / "in" / name, series=n) for n, name in ((1, "a"), (2, "b"))]
    write_localizer(30)(tmp_path / "in")
    write_report(tmp_path / "in")
    write_screenshot(tmp_path / "in")
    results = run(tmp_path / "in", series="all")
    assert [result.status for result in results.values()] == ["done", "done"]
    for result in results.values():
        check_ramp(tmp_path / "OUT" / result.outputs[0], truths[0])


def test_a_series_that_is_not_there_is_a_usage_error(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    with pytest.raises(ConfigError, match="no such series"):
        run(tmp_path / "scan", series="7")


def write_echoes(folder: Path) -> list[Truth]:
    """Write one series of two echoes."""
    return [
        write_series(
            folder,
            kind="MR",
            first=10 * n,
            ramp=Ramp(base=1000.0 + 900 * n),
            edit=put(EchoTime=20 + n, EchoNumbers=n + 1),
        )
        for n in range(2)
    ]


def test_volumes_of_one_series_are_not_guessed_between(run, tmp_path: Path):
    write_echoes(tmp_path / "scan")
    result = only(run(tmp_path / "scan"))
    assert result.code == "SERIES_AMBIGUOUS" and "[1 volume 2]" in (result.message or "")


@pytest.mark.parametrize("volume", [1, 2])
def test_a_volume_is_chosen_by_number(volume: int, run, tmp_path: Path):
    truths = write_echoes(tmp_path / "scan")
    result = only(run(tmp_path / "scan", volume=volume))
    assert result.id.endswith(f"-v{volume}")
    check_ramp(tmp_path / "OUT" / result.outputs[0], truths[volume - 1])


def test_all_takes_both_volumes_of_a_series(run, tmp_path: Path):
    truths = write_echoes(tmp_path / "scan")
    results = sorted(run(tmp_path / "scan", series="all").values(), key=lambda result: result.id)
    assert [result.id[-3:] for result in results] == ["-v1", "-v2"]
    for result, truth in zip(results, truths, strict=True):
        check_ramp(tmp_path / "OUT" / result.outputs[0], truth)


def test_all_reports_the_volumes_that_are_refused(run, tmp_path: Path):
    write_series(tmp_path / "in" / "a", series=1)
    write_series(tmp_path / "in" / "b", tilted(9.0), series=2)
    results = run(tmp_path / "in", series="all").values()
    assert sorted((result.status, result.code) for result in results) == [
        ("done", None),
        ("rejected", "DICOM_TILT"),
    ]


def test_one_file_alone_is_the_volume_that_it_makes(run, tmp_path: Path):
    truth = write_series(tmp_path / "scan")
    result = only(run(tmp_path / "scan" / "slice_000.dcm"))
    check_ramp(tmp_path / "OUT" / result.outputs[0], replace(truth, grid=replace(AXIAL, at=(0.0,))))


def test_a_tilted_gantry_is_refused_unless_asked_for(run, tmp_path: Path):
    write_series(tmp_path / "scan", tilted(12.0))
    assert only(run(tmp_path / "scan")).code == "DICOM_TILT"
    result = only(run(tmp_path / "scan", allow_tilt=True))
    tree = sidecar(tmp_path, result)
    assert tree["scan"]["repair"] == "tilt"
    assert [warning["code"] for warning in tree["warnings"]] == ["DICOM_TILT_REPAIRED"]
    assert [code for code, _ in result.warnings] == ["DICOM_TILT_REPAIRED"]


def test_dirt_above_the_stored_bits_is_left_out_and_told(run, tmp_path: Path):
    truth = write_series(tmp_path / "scan", store=Store(stored=12, dirt=0x8000))
    result = only(run(tmp_path / "scan"))
    check_ramp(tmp_path / "OUT" / result.outputs[0], truth)
    assert [warning["code"] for warning in sidecar(tmp_path, result)["warnings"]] == ["DICOM_HIGH_BITS"]


def test_dicom_and_other_images_in_one_folder_are_refused(run, tmp_path: Path):
    write_series(tmp_path / "in")
    write_image(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(DataError) as caught:
        run(tmp_path / "in")
    assert caught.value.code == "INPUT_MIXED" and not (tmp_path / "OUT").exists()


def test_a_damaged_file_beside_no_series_is_reported(run, tmp_path: Path):
    write_series(tmp_path / "in" / "scan")
    (tmp_path / "in" / "other").mkdir()
    (tmp_path / "in" / "other" / "x.dcm").write_bytes(bytes(128) + b"DICM")
    results = run(tmp_path / "in").values()
    assert sorted((result.status, result.code) for result in results) == [
        ("done", None),
        ("rejected", "DICOM_DAMAGED"),
    ]


def write_damaged(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.dcm").write_bytes(bytes(128) + b"DICM")


@pytest.mark.parametrize("write", [write_structures, write_report])
def test_a_damaged_file_beside_no_image_is_reported(write, run, tmp_path: Path):
    write_series(tmp_path / "in" / "scan")
    write(tmp_path / "in" / "other")
    write_damaged(tmp_path / "in" / "other")
    codes = [result.code for result in run(tmp_path / "in").values()]
    assert codes.count("DICOM_DAMAGED") == 1 and None in codes


def test_damaged_files_of_two_inputs_are_two_cases(run, tmp_path: Path):
    for number, name in enumerate("ab"):
        write_series(tmp_path / name / "scan", study=number)
        write_damaged(tmp_path / name)
    results = run(tmp_path / "a", tmp_path / "b").values()
    assert sorted(result.status for result in results) == ["done", "done", "rejected", "rejected"]


def test_what_is_neither_file_nor_folder_is_no_input(run, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "pipe")
    assert caught.value.code == "INPUT_MISSING"


@pytest.mark.parametrize("at", [2, 7])
def test_a_refused_volume_leaves_no_old_file_of_its_own(at: int, run, tmp_path: Path):
    write_echoes(tmp_path / "scan")
    for volume in (1, 2):
        run(tmp_path / "scan", series="1", volume=volume)
    (tmp_path / "scan" / f"slice_{at if at < 5 else at + 5:03d}.dcm").unlink()
    refused = only(run(tmp_path / "scan", series="1", volume=1 if at < 5 else 2))
    assert (refused.status, refused.code) == ("rejected", "DICOM_GAP")
    left = {path.name for path in (tmp_path / "OUT").glob("dcm-*")}
    kept = refused.id[:-1] + ("2" if at < 5 else "1")
    assert left == {f"{kept}.nii.gz", f"{kept}.json"}


def test_a_series_refused_as_a_whole_takes_its_volumes_along(run, tmp_path: Path):
    write_echoes(tmp_path / "scan")
    run(tmp_path / "scan", series="all")
    write_damaged(tmp_path / "scan")
    assert only(run(tmp_path / "scan", series="all")).code == "DICOM_DAMAGED"
    assert [path.name for path in (tmp_path / "OUT").iterdir()] == ["report.json"]


def test_a_request_that_names_no_volume_takes_none_away(run, tmp_path: Path):
    write_echoes(tmp_path / "scan")
    done = only(run(tmp_path / "scan", volume=2))
    assert only(run(tmp_path / "scan")).code == "SERIES_AMBIGUOUS"
    assert (tmp_path / "OUT" / done.outputs[0]).exists()


def test_an_output_that_another_run_replaced_is_made_again(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    result = only(run(tmp_path / "scan"))
    image = tmp_path / "OUT" / result.outputs[0]
    content = image.read_bytes()
    write_image(image)
    assert only(run(tmp_path / "scan")).status == "done" and image.read_bytes() == content


def test_the_sidecar_holds_the_hash_of_its_output(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    result = only(run(tmp_path / "scan"))
    image = tmp_path / "OUT" / result.outputs[0]
    assert sidecar(tmp_path, result)["outputs_sha256"] == {image.name: sha256_of_file(image)}


@pytest.mark.parametrize("is_dicom", [True, False], ids=["DICOM", "NIfTI"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    is_dicom: bool, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_series(tmp_path / "in") if is_dicom else write_image(tmp_path / "in" / "a.nii.gz")
    victim = min((tmp_path / "in").iterdir())

    def read(image: object, notes: set[str] | None = None) -> Volume:
        volume = read_volume(image, notes)
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
        return volume

    monkeypatch.setattr("medseg.workflows.convert.read_volume", read)
    assert only(run(tmp_path / "in")).code == "FILE_CHANGED"
    assert [path.name for path in (tmp_path / "OUT").iterdir()] == ["report.json"]


def test_other_slices_of_one_file_are_another_input(run, tmp_path: Path):
    write_times(tmp_path / "scan" / "e.dcm")
    first, second = (only(run(tmp_path / "scan", volume=volume)) for volume in (1, 2))
    hashes = {sidecar(tmp_path, result)["input_sha256"] for result in (first, second)}
    assert len(hashes) == 2


def write_image(path: Path) -> Volume:
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(1, 2, 3, 4) - 5
    volume = Volume(array, Geometry.of_spacing((2, 3, 4), (1.0, 1.5, 3.0), (4.0, 5.0, 6.0)))
    write_volume(path, volume)
    return volume


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_other_formats_keep_voxels_type_and_place(suffix: str, run, tmp_path: Path):
    volume = write_image(tmp_path / "in" / f"a{suffix}")
    assert only(run(tmp_path / "in")).id == "a"
    image = nib.load(tmp_path / "OUT" / "a.nii.gz")
    assert image.get_data_dtype() == np.int16 and np.array_equal(np.asarray(image.dataobj), volume.array[0])
    assert np.allclose(image.affine, volume.geometry.affine)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)


@pytest.mark.parametrize(
    ("option", "request_"),
    [
        ("--suv", {"suv": True}),
        ("--series", {"series": "1"}),
        ("--volume", {"volume": 1}),
        ("--slice-thickness", {"slice_thickness_mm": 2.0}),
        ("--allow-tilt, --allow-resample-z", {"allow_tilt": True, "allow_resample_z": True}),
    ],
)
def test_options_of_dicom_are_refused_where_nothing_is(option: str, request_: dict, run, tmp_path: Path):
    write_image(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "in", **request_)
    assert caught.value.code == "OPTION_NEEDS_DICOM" and caught.value.message.startswith(f"{option} ")
    assert caught.value.hint and not (tmp_path / "OUT").exists()


def test_all_series_of_files_are_the_files(run, tmp_path: Path):
    write_image(tmp_path / "in" / "a.nii.gz")
    result = only(run(tmp_path / "in", series="all"))
    assert (result.status, result.warnings) == ("done", [])


def test_beside_dicom_every_file_says_what_it_ignores_each_time(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    write_image(tmp_path / "in" / "a.nii.gz")
    for status in ("done", "skipped"):
        results = run(tmp_path / "scan", tmp_path / "in", allow_tilt=True)
        assert {result.status for result in results.values()} == {status}
        assert [code for code, _ in results.pop("a").warnings] == ["OPTION_NEEDS_DICOM"]
        assert only(results).warnings == []


def test_one_image_file_is_a_case(run, tmp_path: Path):
    write_image(tmp_path / "in" / "a.b.nii.gz")
    assert only(run(tmp_path / "in" / "a.b.nii.gz")).outputs == ["a.b.nii.gz", "a.b.json"]


def test_a_damaged_nifti_is_refused_and_the_others_go_on(run, tmp_path: Path):
    write_image(tmp_path / "in" / "good.nii.gz")
    next(iter(BAD_IMAGES.values()))(tmp_path / "in" / "bad.nii.gz")
    results = run(tmp_path / "in")
    assert (results["good"].status, results["bad"].status) == ("done", "rejected")
    assert not (tmp_path / "OUT" / "bad.nii.gz").exists()


def test_a_picture_lies_nowhere_and_is_refused(run, tmp_path: Path):
    flat = Volume(np.ones((1, 4, 5, 1), np.uint8), Geometry.of_spacing((4, 5, 1), (1, 1, 1)))
    write_volume(tmp_path / "in" / "a.png", flat)
    assert only(run(tmp_path / "in")).code == "PICTURE_NO_GRID"


def test_ids_of_files_are_pseudonyms_where_asked_for(run, tmp_path: Path):
    write_image(tmp_path / "in" / "Smith.nii.gz")
    result = only(run(tmp_path / "in", is_pseudonymous=True))
    assert result.id.startswith("case-") and (tmp_path / "OUT" / f"{result.id}.nii.gz").exists()


def test_two_files_of_one_id_are_refused(run, tmp_path: Path):
    for name in "ab":
        write_image(tmp_path / "in" / name / "same.nii.gz")
    with pytest.raises(DataError) as caught:
        run(tmp_path / "in")
    assert caught.value.code == "DUPLICATE_ID"


@pytest.mark.parametrize("out", ["in", "in/below"])
def test_an_output_folder_among_the_scans_is_refused(out: str, run, tmp_path: Path):
    write_image(tmp_path / "in" / "a.nii.gz")
    before = sha256_of_file(tmp_path / "in" / "a.nii.gz")
    for path in (tmp_path / "in", tmp_path / "in" / "a.nii.gz")[: 2 if out == "in" else 1]:
        with pytest.raises(ConfigError) as caught:
            run(path, out=out)
        assert caught.value.code == "OUT_HOLDS_INPUT"
    assert sha256_of_file(tmp_path / "in" / "a.nii.gz") == before


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, "INPUT_MISSING"),
        (lambda path: path.write_text("hello"), "FORMAT_UNKNOWN"),
        (lambda path: path.mkdir(), "NO_CASES"),
    ],
    ids=["nothing", "text", "empty folder"],
)
def test_what_holds_no_scan_says_so(make, code: str, run, tmp_path: Path):
    make(tmp_path / "x")
    with pytest.raises((ConfigError, DataError)) as caught:
        run(tmp_path / "x")
    assert caught.value.code == code


def test_a_case_too_large_for_the_memory_fails_and_the_others_go_on(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_image(tmp_path / "in" / "a.nii.gz")
    write_image(tmp_path / "in" / "b.nii.gz")

    def read(path: Path, notes: set[str]) -> Volume:
        if path.name == "a.nii.gz":
            raise MemoryError
        return write_image(tmp_path / "copy.nii.gz")

    monkeypatch.setattr("medseg.workflows.convert.read_volume", read)
    results = run(tmp_path / "in")
    assert (results["a"].status, results["a"].code) == ("failed", "OUT_OF_MEMORY")
    assert results["b"].status == "done"


def test_a_bug_is_not_taken_for_a_bad_case(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_image(tmp_path / "in" / "a.nii.gz")

    def read(path: Path, notes: set[str]) -> Volume:
        raise RuntimeError("a bug")

    monkeypatch.setattr("medseg.workflows.convert.read_volume", read)
    with pytest.raises(RuntimeError, match="a bug"):
        run(tmp_path / "in")


def test_the_report_lies_beside_the_outputs(run, tmp_path: Path):
    write_series(tmp_path / "scan")
    result = only(run(tmp_path / "scan"))
    tree = json.loads((tmp_path / "OUT" / "report.json").read_text())
    assert [case["id"] for case in tree["cases"]] == [result.id] and tree["summary"]["done"] == 1


def test_slices_given_one_by_one_are_one_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    done = medseg("convert", *sorted((tmp_path / "in").iterdir()), "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0
    (image,) = (tmp_path / "out").glob("*.nii.gz")
    assert nib.load(image).shape == (7, 6, 5)


def test_damaged_slice_given_among_others_refuses_them(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    (tmp_path / "in" / "slice_004.dcm").write_bytes(b"not found")
    done = medseg("convert", *sorted((tmp_path / "in").iterdir()), "-o", tmp_path / "out")
    assert done.exit_code == 3
    assert "DICOM_DAMAGED" in done.stderr
