from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from medseg.core.geometry import Geometry
from medseg.core.volume import Labels
from medseg.io.dicom import Scan
from medseg.io.dicom.labels.rtstruct import read_rtstruct, write_rtstruct
from medseg.io.dicom.labels.slices import to_source
from tests.builders import make_rotation
from tests.dicom_edits import both, drop, put, raw
from tests.dicom_files import Edit, Grid, to_vector, write_series
from tests.dicom_labels import (
    AS_THEY_ARE,
    INVENTED,
    NAMES,
    REAL_SCANS,
    SOURCES,
    SPOILT,
    STEP_MM,
    STRIPPED,
    code_of,
    find_errors,
    make_blocks,
    make_labels,
    make_scan,
    paint,
    read_back,
    rectangle,
)

ROI = {"one": 1}


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return make_scan(tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_written_structures_pass_the_verifier(tmp_path: Path, name: str) -> None:
    scan = make_scan(tmp_path, name)
    write_rtstruct(tmp_path / "rt.dcm", make_labels(scan), scan, NAMES)
    assert find_errors(tmp_path / "rt.dcm") == []


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_written_structures_are_read_back_voxel_by_voxel(tmp_path: Path, name: str) -> None:
    scan = make_scan(tmp_path, name)
    labels = make_labels(scan)
    write_rtstruct(tmp_path / "rt.dcm", labels, scan, NAMES)
    back = read_rtstruct(tmp_path / "rt.dcm", scan, {}, labels=NAMES)
    np.testing.assert_array_equal(back.array, labels.array)


@pytest.mark.parametrize("name", SOURCES)
def test_written_structures_are_the_labels_on_the_slices_of_the_source(tmp_path: Path, name: str) -> None:
    scan = make_scan(tmp_path, name)
    labels = make_labels(scan)
    write_rtstruct(tmp_path / "rt.dcm", labels, scan, NAMES)
    back = read_rtstruct(tmp_path / "rt.dcm", scan, {"#1": 1, "#2": 2})
    np.testing.assert_array_equal(to_source(back, scan), to_source(labels, scan))


@pytest.fixture(scope="module")
def any_scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return make_scan(tmp_path_factory.mktemp("source"))


@settings(max_examples=25)
@given(
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing_mm=st.tuples(*[st.floats(0.01, 10)] * 3),
    origin_mm=st.tuples(*[st.floats(-2000, 2000)] * 3),
    seed=st.integers(0, 9),
)
def test_structures_survive_any_direction_size_and_place_of_voxels(
    any_scan: Scan,
    tmp_path_factory: pytest.TempPathFactory,
    degrees: tuple[float, float, float],
    spacing_mm: tuple[float, float, float],
    origin_mm: tuple[float, float, float],
    seed: int,
) -> None:
    directions = make_rotation(degrees)
    row_step, column_step, step = spacing_mm
    frames = tuple(
        replace(
            frame,
            orientation=tuple(directions[:, :2].T.ravel()),
            position_mm=to_vector(np.array(origin_mm) + k * step * directions[:, 2]),
            spacing_mm=(row_step, column_step),
        )
        for k, frame in enumerate(any_scan.frames)
    )
    affine = frames[0].plane.copy()
    affine[:3, 2] *= step
    scan = replace(any_scan, frames=frames, geometry=Geometry(any_scan.geometry.shape, affine))
    labels = make_labels(scan, seed)
    path = tmp_path_factory.getbasetemp() / "any.dcm"
    write_rtstruct(path, labels, scan, NAMES)
    np.testing.assert_array_equal(read_rtstruct(path, scan, {"one": 1, "two": 2}).array, labels.array)


@pytest.mark.parametrize("name", ["axial", "enhanced"])
def test_every_contour_refers_to_the_slice_it_lies_on(tmp_path: Path, name: str) -> None:
    scan = make_scan(tmp_path, name)
    write_rtstruct(tmp_path / "rt.dcm", paint(scan, 1, (slice(2), slice(2), slice(5))), scan, NAMES)
    contours = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence
    found = {
        (
            round(float(contour.ContourData[2]), 3),
            contour.ContourImageSequence[0].ReferencedSOPInstanceUID,
            contour.ContourImageSequence[0].get("ReferencedFrameNumber"),
        )
        for contour in contours
    }
    assert found == {
        (
            round(frame.position_mm[2], 3) if frame.position_mm else None,
            frame.instance.sop_instance,
            frame.index + 1 if name == "enhanced" else None,
        )
        for frame in scan.frames
    }


def test_coordinates_are_right_to_a_thousandth_of_a_millimetre(scan: Scan, tmp_path: Path) -> None:
    write_rtstruct(tmp_path / "rt.dcm", paint(scan, 1, (slice(2, 6), slice(3, 5), slice(1, 2))), scan, NAMES)
    data = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence[0].ContourData
    points = np.sort(np.array(data, float).reshape(-1, 3), axis=0)
    expected = np.sort(rectangle((2, 3), (5, 4), STEP_MM), axis=0)
    np.testing.assert_allclose(points, expected, atol=1e-3)


def test_numbers_have_at_most_sixteen_characters(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, "oblique")
    write_rtstruct(tmp_path / "rt.dcm", make_labels(scan), scan, NAMES)
    contours = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence
    assert max(len(str(value)) for contour in contours for value in contour.ContourData) <= 16


def test_a_contour_longer_than_an_explicit_element_is_read_back(tmp_path: Path) -> None:
    write_series(tmp_path / "large", Grid(rows=65, columns=65, at=(0.0, 1.0), pixel_mm=(0.11, 0.13)))
    scan = read_back(tmp_path / "large")
    sieve = paint(scan, 1, (slice(65), slice(65), slice(1)))
    sieve.array[1::2, 1::2] = 0
    write_rtstruct(tmp_path / "rt.dcm", sieve, scan, NAMES)
    (contour,) = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence
    assert sum(len(str(value)) + 1 for value in contour.ContourData) > 1 << 16
    np.testing.assert_array_equal(read_rtstruct(tmp_path / "rt.dcm", scan, ROI).array, sieve.array)


def test_a_mask_without_voxels_gives_a_valid_object_and_is_told(scan: Scan, tmp_path: Path) -> None:
    assert not write_rtstruct(tmp_path / "rt.dcm", paint(scan, 1), scan, NAMES)
    assert find_errors(tmp_path / "rt.dcm") == []


def test_labels_stored_in_another_order_of_axes_are_the_same_structures(scan: Scan, tmp_path: Path) -> None:
    labels = make_labels(scan)
    affine = scan.geometry.affine[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] = scan.geometry.to_world([0, 0, 4])
    affine[:3, 0] *= -1
    turned = Labels(labels.array.transpose(2, 0, 1)[::-1], Geometry((5, 11, 9), affine))
    write_rtstruct(tmp_path / "a.dcm", labels, scan, NAMES)
    write_rtstruct(tmp_path / "b.dcm", turned, scan, NAMES)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_labels_on_another_grid_are_refused(scan: Scan, tmp_path: Path) -> None:
    affine = scan.geometry.affine.copy()
    affine[0, 3] += 0.5
    labels = Labels(make_labels(scan).array, Geometry(scan.geometry.shape, affine))
    assert code_of(lambda: write_rtstruct(tmp_path / "rt.dcm", labels, scan, NAMES)) == "GRID_MISMATCH"


def test_a_label_without_a_name_is_refused(scan: Scan, tmp_path: Path) -> None:
    labels = make_labels(scan)
    assert code_of(lambda: write_rtstruct(tmp_path / "rt.dcm", labels, scan, {1: "one"})) == "LABEL_VALUE"
    assert not (tmp_path / "rt.dcm").exists()


@pytest.mark.parametrize("names", [{}, {0: "none", 1: "one"}, {1: "one", 70000: "many"}])
def test_numbers_that_dicom_cannot_hold_are_refused(
    scan: Scan, tmp_path: Path, names: dict[int, str]
) -> None:
    assert code_of(lambda: write_rtstruct(tmp_path / "rt", paint(scan, 1), scan, names)) == "LABEL_VALUE"


def test_the_same_labels_give_the_same_bytes_and_others_another_instance(scan: Scan, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_rtstruct(tmp_path / name, make_labels(scan, seed), scan, NAMES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    first, other = (pydicom.dcmread(tmp_path / name).SOPInstanceUID for name in "ac")
    assert first != other


def test_patient_and_study_are_those_of_the_source(tmp_path: Path) -> None:
    edit = put(PatientName="Nobody^Jürgen", PatientAge="061Y", AccessionNumber="A77")
    scan = make_scan(tmp_path, edit=edit)
    write_rtstruct(tmp_path / "rt.dcm", make_labels(scan), scan, NAMES)
    written, source = pydicom.dcmread(tmp_path / "rt.dcm"), pydicom.dcmread(scan.files[0])
    shared = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID")
    for keyword in (*shared, "StudyDate", "AccessionNumber", "StudyID", "FrameOfReferenceUID"):
        assert str(written[keyword].value) == str(source[keyword].value), keyword


@pytest.mark.parametrize("edit", [STRIPPED, SPOILT, INVENTED])
def test_missing_and_impossible_values_of_the_source_become_empty(tmp_path: Path, edit: Edit) -> None:
    scan = make_scan(tmp_path, edit=edit)
    write_rtstruct(tmp_path / "rt.dcm", make_labels(scan), scan, NAMES)
    written = pydicom.dcmread(tmp_path / "rt.dcm")
    assert (written.PatientBirthDate, written.PatientSex, written.StudyID) == ("", "", "")
    assert find_errors(tmp_path / "rt.dcm") == []


def test_a_source_without_a_frame_of_reference_gets_one_from_its_series(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, edit=drop("FrameOfReferenceUID"))
    labels = make_labels(scan)
    write_rtstruct(tmp_path / "rt.dcm", labels, scan, NAMES)
    assert find_errors(tmp_path / "rt.dcm") == []
    np.testing.assert_array_equal(
        read_rtstruct(tmp_path / "rt.dcm", scan, {"one": 1, "two": 2}).array, labels.array
    )


def test_nothing_of_a_header_is_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    scan = make_scan(tmp_path, edit=both(SPOILT, raw("FrameOfReferenceUID", b"DOE.JOHN")))
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        write_rtstruct(tmp_path / "rt.dcm", make_labels(scan), scan, NAMES)
    assert (caplog.text, *capfd.readouterr(), warned) == ("", "", "", [])


def test_a_source_without_uids_cannot_be_referred_to(scan: Scan, tmp_path: Path) -> None:
    frames = tuple(replace(frame, instance=replace(frame.instance, sop_instance="")) for frame in scan.frames)
    nameless = replace(scan, frames=frames)
    labels = make_labels(scan)
    assert code_of(lambda: write_rtstruct(tmp_path / "rt", labels, nameless, NAMES)) == "LABEL_REFERENCE"


@pytest.mark.parametrize("folder", REAL_SCANS)
def test_structures_on_real_scans_are_valid_and_read_back(
    medseg_data: Path, tmp_path: Path, folder: str
) -> None:
    scan = read_back(medseg_data / folder)
    labels = make_blocks(scan)
    write_rtstruct(tmp_path / "rt.dcm", labels, scan, NAMES)
    assert find_errors(tmp_path / "rt.dcm") == []
    np.testing.assert_array_equal(
        read_rtstruct(tmp_path / "rt.dcm", scan, {"one": 1, "two": 2}).array, labels.array
    )


def moved(dataset: Dataset, k: int) -> None:
    """Say every position anew: all slices a metre higher."""
    dataset.ImagePositionPatient[2] += 1000


def test_slices_of_one_uid_cannot_be_referred_to(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, edit=put(SOPInstanceUID="1.2.3"))
    labels = make_labels(scan)
    assert code_of(lambda: write_rtstruct(tmp_path / "x.dcm", labels, scan, NAMES)) == "LABEL_REFERENCE"
    assert not (tmp_path / "x.dcm").exists()


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"])
def test_several_uids_in_place_of_one_cannot_be_referred_to(tmp_path: Path, keyword: str) -> None:
    scan = make_scan(tmp_path, edit=raw(keyword, b"1.2\\3.4"))
    labels = make_labels(scan)
    assert code_of(lambda: write_rtstruct(tmp_path / "x.dcm", labels, scan, NAMES)) == "LABEL_REFERENCE"


def test_a_source_that_is_gone_is_told(scan: Scan, tmp_path: Path) -> None:
    scan.files[0].unlink()
    labels = make_labels(scan)
    assert code_of(lambda: write_rtstruct(tmp_path / "x.dcm", labels, scan, NAMES)) == "FILE_UNREADABLE"


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
        write_rtstruct(tmp_path / name / "x.dcm", Labels(labels.array, scan.geometry), scan, NAMES)
        uids.add(pydicom.dcmread(tmp_path / name / "x.dcm").SOPInstanceUID)
    assert len(uids) == 2


SEVERAL = both(raw("PatientName", b"Nobody\\No^One"), raw("ReferringPhysicianName", b"A^B\\C^D", "PN"))


def test_several_names_of_one_patient_become_one(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, edit=SEVERAL)
    write_rtstruct(tmp_path / "x.dcm", make_labels(scan), scan, NAMES)
    assert pydicom.dcmread(tmp_path / "x.dcm").PatientName == "Nobody No^One"
    assert find_errors(tmp_path / "x.dcm") == []


def test_structures_of_unknown_origin_claim_none(tmp_path: Path) -> None:
    scan = make_scan(tmp_path)
    write_rtstruct(tmp_path / "rt.dcm", make_labels(scan), scan, NAMES, algorithm=("unknown", "unknown"))
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    assert {one.ROIGenerationAlgorithm for one in dataset.StructureSetROISequence} == {""}
    assert find_errors(tmp_path / "rt.dcm") == []
