from __future__ import annotations

import logging
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from medseg.core.errors import ConfigError, DataError
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels
from medseg.io.dicom import Scan
from medseg.io.dicom.labels.derived import list_structures
from medseg.io.dicom.labels.seg import read_seg, write_seg
from medseg.io.dicom.labels.slices import reorder, to_source
from tests.dicom_edits import both, drop, put, raw
from tests.dicom_files import Edit
from tests.dicom_labels import (
    AS_THEY_ARE,
    INVENTED,
    NAMES,
    REAL_SCANS,
    SOURCES,
    SPOILT,
    STRIPPED,
    code_of,
    find_errors,
    find_program,
    make_blocks,
    make_labels,
    make_scan,
    paint,
    read_back,
)

BY_NAME = {"one": 1, "two": 2}
VOLUMES = tuple(
    name for name in AS_THEY_ARE if name != "one slice"
)  # the others know no distance of slices then
YOUNGER_THAN_THE_VERIFIER = (
    "Error - Information Object Not found",  # LABELMAP is of Supplement 243, 2024
    "Error - SegmentNumber not monotonically increasing from one by one",  # there, 0 may be the background
)


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return make_scan(tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_written_segments_pass_the_verifier(tmp_path: Path, name: str) -> None:
    scan = make_scan(tmp_path, name)
    write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, NAMES)
    assert find_errors(tmp_path / "seg.dcm") == []


def test_a_label_map_has_no_fault_but_to_be_younger_than_the_verifier(scan: Scan, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, NAMES, kind="labelmap")
    errors = find_errors(tmp_path / "seg.dcm")
    assert [error for error in errors if not error.startswith(YOUNGER_THAN_THE_VERIFIER)] == []


def test_fractional_segments_pass_the_verifier(scan: Scan, tmp_path: Path) -> None:
    labels = make_labels(scan)
    probabilities = np.stack([labels.array == 1, labels.array == 2]) * 0.75
    write_seg(tmp_path / "seg.dcm", labels, scan, NAMES, kind="fractional", probabilities=probabilities)
    assert find_errors(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_written_segments_are_read_back_voxel_by_voxel(tmp_path: Path, name: str, kind: str) -> None:
    scan = make_scan(tmp_path, name)
    labels = make_labels(scan)
    write_seg(tmp_path / "seg.dcm", labels, scan, NAMES, kind=kind)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", scan, BY_NAME).array, labels.array)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("name", SOURCES)
def test_written_segments_are_the_labels_on_the_slices_of_the_source(
    tmp_path: Path, name: str, kind: str
) -> None:
    scan = make_scan(tmp_path, name)
    labels = make_labels(scan)
    write_seg(tmp_path / "seg.dcm", labels, scan, NAMES, kind=kind)  # type: ignore[arg-type]
    back = read_seg(tmp_path / "seg.dcm", scan, BY_NAME)
    np.testing.assert_array_equal(to_source(back, scan), to_source(labels, scan))


@pytest.mark.parametrize("name", SOURCES)
def test_frames_lie_where_the_slices_of_the_source_lie(tmp_path: Path, name: str) -> None:
    scan = make_scan(tmp_path, name)
    write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, {1: "one", 2: "two"}, kind="labelmap")
    groups = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
    found = sorted(tuple(map(float, g.PlanePositionSequence[0].ImagePositionPatient)) for g in groups)
    expected = sorted(frame.position_mm for frame in scan.frames if frame.position_mm)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["axial", "enhanced", "tilted"])
def test_every_frame_refers_to_the_slice_it_lies_on(tmp_path: Path, name: str) -> None:
    scan = make_scan(tmp_path, name)
    write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, NAMES)
    by_position = {frame.position_mm: frame for frame in scan.frames}
    for group in pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence:
        position = tuple(map(float, group.PlanePositionSequence[0].ImagePositionPatient))
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        frame = by_position[position]  # type: ignore[index]
        assert reference.ReferencedSOPInstanceUID == frame.instance.sop_instance
        assert reference.get("ReferencedFrameNumber") == (frame.index + 1 if name == "enhanced" else None)


def test_frames_of_a_multi_frame_source_that_are_not_used_are_not_referred_to(tmp_path: Path) -> None:
    whole = make_scan(tmp_path, "enhanced")  # its slices are frames 3, 2, 5, 1 and 4
    part = replace(whole, frames=whole.frames[1:4], geometry=whole.geometry.crop((0, 0, 1), (11, 9, 4)))
    labels = make_labels(part)
    write_seg(tmp_path / "seg.dcm", labels, part, NAMES)
    (reference,) = pydicom.dcmread(tmp_path / "seg.dcm").SourceImageSequence
    assert sorted(reference.ReferencedFrameNumber) == [1, 2, 5]
    assert find_errors(tmp_path / "seg.dcm") == []
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", part, BY_NAME).array, labels.array)


@pytest.mark.parametrize("name", VOLUMES)
def test_dcmqi_reads_the_same_voxels_at_the_same_place(tmp_path: Path, name: str) -> None:
    program = find_program("segimage2itkimage")
    scan = make_scan(tmp_path, name)
    labels = make_labels(scan)
    write_seg(tmp_path / "seg.dcm", labels, scan, NAMES)
    command = [program, "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "-t", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    for value in NAMES:
        image = SimpleITK.ReadImage(str(tmp_path / f"{value}.nrrd"))
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        array = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
        found = reorder(array, to_ras(affine, array.shape), scan.geometry)
        np.testing.assert_array_equal(found > 0, labels.array == value)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("name", VOLUMES)
def test_highdicom_reads_the_same_voxels_at_the_same_place(tmp_path: Path, name: str, kind: str) -> None:
    scan = make_scan(tmp_path, name)
    labels = make_labels(scan)
    write_seg(tmp_path / "seg.dcm", labels, scan, NAMES, kind=kind)  # type: ignore[arg-type]
    volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    array = np.asarray(volume.array)
    found = reorder(array, to_ras(volume.affine, array.shape), scan.geometry)
    np.testing.assert_array_equal(found, labels.array)


def to_ras(affine_lps: NDArray[np.float64], shape: tuple[int, ...]) -> Geometry:
    i, j, k = shape
    return Geometry((i, j, k), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_mask_without_voxels_gives_a_valid_object_and_is_told(
    scan: Scan, tmp_path: Path, kind: str
) -> None:
    assert not write_seg(tmp_path / "seg.dcm", paint(scan, 1), scan, NAMES, kind=kind)  # type: ignore[arg-type]
    errors = find_errors(tmp_path / "seg.dcm")
    assert [error for error in errors if not error.startswith(YOUNGER_THAN_THE_VERIFIER)] == []
    assert not read_seg(tmp_path / "seg.dcm", scan, BY_NAME).array.any()


def test_labels_with_gaps_become_segments_without(scan: Scan, tmp_path: Path) -> None:
    labels = paint(scan, 7, (slice(3), slice(2), slice(1)))
    labels.array[5, 5, 3] = 2
    write_seg(tmp_path / "seg.dcm", labels, scan, {7: "seven", 2: "two"})
    assert list_structures(tmp_path / "seg.dcm") == [(1, "two"), (2, "seven")]
    back = read_seg(tmp_path / "seg.dcm", scan, {}, labels={2: "two", 7: "seven"})
    np.testing.assert_array_equal(back.array, labels.array)


def test_segments_of_a_label_map_are_numbered_as_the_labels(scan: Scan, tmp_path: Path) -> None:
    labels = Labels(make_labels(scan).array.astype(np.uint16) * 300, scan.geometry)
    write_seg(tmp_path / "seg.dcm", labels, scan, {300: "one", 600: "two"}, kind="labelmap")
    assert list_structures(tmp_path / "seg.dcm") == [(300, "one"), (600, "two")]
    back = read_seg(tmp_path / "seg.dcm", scan, {"#300": 300, "#600": 600})
    np.testing.assert_array_equal(back.array, labels.array)


def test_what_a_segment_is_comes_from_the_codes(scan: Scan, tmp_path: Path) -> None:
    liver, neoplasm = ("10200004", "SCT", "Liver"), ("108369006", "SCT", "Neoplasm")
    changed = ("49755003", "SCT", "Morphologically Altered Structure")
    write_seg(
        tmp_path / "seg.dcm",
        make_labels(scan),
        scan,
        NAMES,
        codes={1: liver, 2: neoplasm},
        categories={2: changed},
        algorithm=("liver_ct", "1.2"),
    )
    first, second = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Liver"
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert second.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert (first.SegmentAlgorithmType, first.SegmentAlgorithmName) == ("AUTOMATIC", "liver_ct")
    assert find_errors(tmp_path / "seg.dcm") == []


def test_the_same_labels_give_the_same_bytes_and_others_another_instance(scan: Scan, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_seg(tmp_path / name, make_labels(scan, seed), scan, NAMES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    first, other = (pydicom.dcmread(tmp_path / name) for name in "ac")
    assert first.SOPInstanceUID != other.SOPInstanceUID
    tracked = [item.TrackingUID for item in first.SegmentSequence]
    assert tracked == [item.TrackingUID for item in other.SegmentSequence]


def test_patient_and_study_are_those_of_the_source(tmp_path: Path) -> None:
    scan = make_scan(
        tmp_path, edit=put(PatientName="Nobody^Jürgen", PatientAge="061Y", AccessionNumber="A77")
    )
    write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, NAMES)
    written, source = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(scan.files[0])
    shared = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID")
    for keyword in (*shared, "StudyDate", "AccessionNumber", "StudyID", "FrameOfReferenceUID"):
        assert str(written[keyword].value) == str(source[keyword].value), keyword


@pytest.mark.parametrize(
    "edit",
    [
        STRIPPED,
        drop("PatientName", "PatientID"),
        drop("FrameOfReferenceUID"),
        SPOILT,
        INVENTED,
    ],
)
def test_what_the_source_lacks_or_spoils_does_not_make_the_object_invalid(tmp_path: Path, edit: Edit) -> None:
    scan = make_scan(tmp_path, edit=edit)
    labels = make_labels(scan)
    write_seg(tmp_path / "seg.dcm", labels, scan, NAMES)
    assert find_errors(tmp_path / "seg.dcm") == []
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", scan, BY_NAME).array, labels.array)


def test_nothing_of_a_header_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    scan = make_scan(tmp_path, edit=both(SPOILT, raw("FrameOfReferenceUID", b"DOE.JOHN")))
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, NAMES)
    assert (caplog.text, *capfd.readouterr(), warned) == ("", "", "", [])


@pytest.mark.parametrize("value", [b"abc", b"1e400", b"-2", b"0"])
def test_an_impossible_thickness_is_replaced_by_the_step_of_the_slices(tmp_path: Path, value: bytes) -> None:
    scan = make_scan(tmp_path, edit=raw("SliceThickness", value))
    write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, NAMES)
    (shared,) = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence
    assert shared.PixelMeasuresSequence[0].SliceThickness == 3.0


def test_labels_on_another_grid_are_refused(scan: Scan, tmp_path: Path) -> None:
    labels = make_labels(scan)
    smaller = Labels(labels.array[1:], scan.geometry.crop((1, 0, 0), scan.geometry.shape))
    assert code_of(lambda: write_seg(tmp_path / "seg.dcm", smaller, scan, NAMES)) == "GRID_MISMATCH"


def test_a_label_without_a_name_is_refused(scan: Scan, tmp_path: Path) -> None:
    labels = make_labels(scan)
    assert code_of(lambda: write_seg(tmp_path / "seg.dcm", labels, scan, {1: "one"})) == "LABEL_VALUE"


def test_fractional_segments_need_probabilities(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, NAMES, kind="fractional")
    assert caught.value.code == "PROBABILITIES_MISSING"


def test_probabilities_of_another_number_of_labels_are_refused(scan: Scan, tmp_path: Path) -> None:
    labels = make_labels(scan)
    one = np.zeros((1, *labels.array.shape))
    with pytest.raises(DataError) as caught:
        write_seg(tmp_path / "seg.dcm", labels, scan, NAMES, kind="fractional", probabilities=one)
    assert caught.value.code == "PROBABILITY_RANGE"


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_impossible_probabilities_are_refused(scan: Scan, tmp_path: Path, value: float) -> None:
    labels = make_labels(scan)
    wrong = np.full((2, *labels.array.shape), value)
    call = lambda: write_seg(  # noqa: E731
        tmp_path / "seg.dcm", labels, scan, NAMES, kind="fractional", probabilities=wrong
    )
    assert code_of(call) == "PROBABILITY_RANGE"


@pytest.mark.parametrize("folder", REAL_SCANS)
def test_segments_on_real_scans_are_valid_and_read_back(
    medseg_data: Path, tmp_path: Path, folder: str
) -> None:
    scan = read_back(medseg_data / folder)
    labels = make_blocks(scan)
    write_seg(tmp_path / "seg.dcm", labels, scan, NAMES)
    assert find_errors(tmp_path / "seg.dcm") == []
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", scan, BY_NAME).array, labels.array)


def moved(dataset: Dataset, k: int) -> None:
    """Say every position anew: all slices a metre higher."""
    dataset.ImagePositionPatient[2] += 1000


def test_slices_of_one_uid_cannot_be_referred_to(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, edit=put(SOPInstanceUID="1.2.3"))
    labels = make_labels(scan)
    assert code_of(lambda: write_seg(tmp_path / "x.dcm", labels, scan, NAMES)) == "LABEL_REFERENCE"
    assert not (tmp_path / "x.dcm").exists()


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"])
def test_several_uids_in_place_of_one_cannot_be_referred_to(tmp_path: Path, keyword: str) -> None:
    scan = make_scan(tmp_path, edit=raw(keyword, b"1.2\\3.4"))
    labels = make_labels(scan)
    assert code_of(lambda: write_seg(tmp_path / "x.dcm", labels, scan, NAMES)) == "LABEL_REFERENCE"


def test_a_source_that_is_gone_is_told(scan: Scan, tmp_path: Path) -> None:
    scan.files[0].unlink()
    labels = make_labels(scan)
    assert code_of(lambda: write_seg(tmp_path / "x.dcm", labels, scan, NAMES)) == "FILE_UNREADABLE"


CORRECTED = {
    "patient": put(PatientName="Nobody^Corrected"),
    "study": put(StudyID="another"),
    "position": moved,
    "kind": put(SOPClassUID=MRImageStorage),
}


@pytest.mark.parametrize("change", CORRECTED)
def test_a_corrected_source_gives_another_instance(tmp_path: Path, change: str) -> None:
    labels = make_labels(make_scan(tmp_path / "a"))
    uids = set()
    for name, edit in (("a", None), ("b", CORRECTED[change])):
        scan = make_scan(tmp_path / name, edit=edit)
        write_seg(tmp_path / name / "x.dcm", Labels(labels.array, scan.geometry), scan, NAMES)
        uids.add(pydicom.dcmread(tmp_path / name / "x.dcm").SOPInstanceUID)
    assert len(uids) == 2


SEVERAL = both(raw("PatientName", b"Nobody\\No^One"), raw("ReferringPhysicianName", b"A^B\\C^D", "PN"))


def test_several_names_of_one_patient_become_one(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, edit=SEVERAL)
    write_seg(tmp_path / "x.dcm", make_labels(scan), scan, NAMES)
    assert pydicom.dcmread(tmp_path / "x.dcm").PatientName == "Nobody No^One"
    assert find_errors(tmp_path / "x.dcm") == []


def test_labels_of_unknown_origin_are_not_passed_off_as_an_algorithms(scan: Scan, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, NAMES, algorithm=("unknown", "unknown"))
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert {one.SegmentAlgorithmType for one in dataset.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert dataset.SeriesDescription == "segmentation"
    assert find_errors(tmp_path / "seg.dcm") == []
