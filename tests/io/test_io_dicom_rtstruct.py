from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.io.dicom import Scan
from medseg.io.dicom.labels.derived import list_structures
from medseg.io.dicom.labels.rtstruct import read_rtstruct, write_rtstruct
from medseg.io.dicom.labels.slices import reorder
from tests.dicom_labels import (
    NAMES,
    STEP_MM,
    code_of,
    make_scan,
    paint,
    read_back,
    rectangle,
)

ROI = {"one": 1}


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return make_scan(tmp_path)


def draw(
    scan: Scan, path: Path, *contours: NDArray[np.float64], kind: str = "CLOSED_PLANAR", into: int = 1
) -> Dataset:
    """Write a structure set with contours in one of the two structures, and return it."""
    write_rtstruct(path, paint(scan, 1), scan, NAMES)
    dataset = pydicom.dcmread(path)
    items = []
    for points in contours:
        item = Dataset()
        item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
        item.ContourData = [f"{value:.4f}" for value in points.ravel()]
        items.append(item)
    dataset.ROIContourSequence[into - 1].ContourSequence = items
    dataset.save_as(path)
    return dataset


def test_a_contour_becomes_the_pixels_whose_centres_it_encloses(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "rt.dcm"
    draw(scan, path, rectangle((2, 3), (5, 4), 1 * STEP_MM))
    expected = paint(scan, 7, (slice(2, 6), slice(3, 5), slice(1, 2)))
    np.testing.assert_array_equal(read_rtstruct(path, scan, {"one": 7}).array, expected.array)


def test_an_inner_contour_is_a_hole(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "rt.dcm"
    draw(scan, path, rectangle((1, 1), (8, 7)), rectangle((3, 3), (5, 4)), kind="CLOSEDPLANAR_XOR")
    assert read_rtstruct(path, scan, ROI).array.sum() == 8 * 7 - 3 * 2


def test_slices_without_a_contour_stay_empty(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "rt.dcm"
    draw(scan, path, *(rectangle((0, 0), (2, 0), k * STEP_MM) for k in (0, 2, 4)))
    counts = read_rtstruct(path, scan, ROI).array.sum(axis=(0, 1))
    assert counts.tolist() == [3, 0, 3, 0, 3]


def test_contours_belong_to_the_slice_at_their_height_whatever_image_they_name(
    scan: Scan, tmp_path: Path
) -> None:
    path = tmp_path / "rt.dcm"
    dataset = draw(scan, path, rectangle((0, 0), (2, 0), 2 * STEP_MM))
    reference = Dataset()
    reference.ReferencedSOPClassUID = scan.frames[0].instance.sop_class
    reference.ReferencedSOPInstanceUID = scan.frames[0].instance.sop_instance
    dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence = [reference]
    dataset.save_as(path)
    assert read_rtstruct(path, scan, ROI).array.sum(axis=(0, 1)).tolist() == [0, 0, 3, 0, 0]


def test_a_structure_without_contours_is_empty(scan: Scan, tmp_path: Path) -> None:
    draw(scan, tmp_path / "rt.dcm")
    assert not read_rtstruct(tmp_path / "rt.dcm", scan, ROI).array.any()


def test_a_contour_without_points_encloses_nothing(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "rt.dcm"
    dataset = draw(scan, path, rectangle((0, 0), (2, 0)), rectangle((0, 0), (2, 0), STEP_MM))
    empty = dataset.ROIContourSequence[0].ContourSequence[0]
    empty.NumberOfContourPoints, empty.ContourData = 0, None
    dataset.save_as(path)
    assert read_rtstruct(path, scan, ROI).array.sum(axis=(0, 1)).tolist() == [0, 3, 0, 0, 0]


def split(dataset: Dataset, *ends: int) -> None:
    """Spread the contours of structure 1 over two items, the second from each of `ends` on."""
    first, other = dataset.ROIContourSequence
    second, contours = deepcopy(first), list(first.ContourSequence)
    first.ContourSequence, second.ContourSequence = contours[: ends[0]], contours[ends[-1] :]
    dataset.ROIContourSequence = [first, other, second]


def test_contours_of_a_structure_in_several_items_are_all_read(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "rt.dcm"
    dataset = draw(scan, path, *(rectangle((0, 0), (2, 0), k * STEP_MM) for k in (0, 1, 3)))
    split(dataset, 1)
    dataset.save_as(path)
    assert read_rtstruct(path, scan, ROI).array.sum(axis=(0, 1)).tolist() == [3, 3, 0, 3, 0]


def test_items_of_a_structure_that_meet_on_a_slice_are_refused(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "rt.dcm"
    dataset = draw(scan, path, *(rectangle((0, 0), (2, 0), k * STEP_MM) for k in (0, 1)))
    split(dataset, 2, 1)
    dataset.save_as(path)
    assert code_of(lambda: read_rtstruct(path, scan, ROI)) == "DICOM_CONTOUR"


def test_contours_of_an_unlisted_structure_are_not_taken_for_nothing(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "rt.dcm"
    dataset = draw(scan, path, rectangle((0, 0), (2, 0)))
    dataset.ROIContourSequence[0].ReferencedROINumber = 9
    dataset.save_as(path)
    assert code_of(lambda: read_rtstruct(path, scan, ROI)) == "DICOM_HEADER"


def test_contours_of_an_unlisted_structure_beside_whole_ones_do_not_matter(
    scan: Scan, tmp_path: Path
) -> None:
    path = tmp_path / "rt.dcm"
    dataset = draw(scan, path, rectangle((0, 0), (2, 0)), into=2)
    dataset.ROIContourSequence[0].ReferencedROINumber = 9
    dataset.save_as(path)
    assert read_rtstruct(path, scan, {"two": 1}).array.sum() == 3


@pytest.mark.parametrize("number", [None, -1])
def test_a_structure_without_a_number_is_refused(scan: Scan, tmp_path: Path, number: int | None) -> None:
    path = tmp_path / "rt.dcm"
    dataset = draw(scan, path, rectangle((0, 0), (2, 0)))
    dataset.StructureSetROISequence[0].add(DataElement("ROINumber", "IS", number))
    dataset.ROIContourSequence[0].add(DataElement("ReferencedROINumber", "IS", number))
    dataset.save_as(path)
    assert code_of(lambda: read_rtstruct(path, scan, ROI)) == "DICOM_HEADER"


def test_heights_rounded_to_a_tenth_of_a_step_are_taken(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "rt.dcm"
    draw(scan, path, rectangle((0, 0), (2, 0), STEP_MM + 0.29))
    assert read_rtstruct(path, scan, ROI).array.sum(axis=(0, 1)).tolist() == [0, 3, 0, 0, 0]


@pytest.mark.parametrize("height_mm", [STEP_MM + 0.31, 1.5 * STEP_MM, -STEP_MM, 5 * STEP_MM])
def test_a_contour_off_the_slices_is_refused(scan: Scan, tmp_path: Path, height_mm: float) -> None:
    draw(scan, tmp_path / "rt.dcm", rectangle((0, 0), (2, 0), height_mm))
    assert code_of(lambda: read_rtstruct(tmp_path / "rt.dcm", scan, ROI)) == "DICOM_CONTOUR"


def test_a_contour_that_is_not_parallel_to_the_slices_is_refused(scan: Scan, tmp_path: Path) -> None:
    points = rectangle((0, 0), (5, 5), STEP_MM)
    points[2:, 2] += STEP_MM
    draw(scan, tmp_path / "rt.dcm", points)
    assert code_of(lambda: read_rtstruct(tmp_path / "rt.dcm", scan, ROI)) == "DICOM_CONTOUR"


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR", ""])
def test_what_is_not_closed_is_refused(scan: Scan, tmp_path: Path, kind: str) -> None:
    draw(scan, tmp_path / "rt.dcm", rectangle((0, 0), (2, 0)), kind=kind)
    assert code_of(lambda: read_rtstruct(tmp_path / "rt.dcm", scan, ROI)) == "DICOM_CONTOUR"


def test_an_open_contour_of_another_structure_does_not_matter(scan: Scan, tmp_path: Path) -> None:
    draw(scan, tmp_path / "rt.dcm", rectangle((0, 0), (2, 0)), kind="POINT")
    assert not read_rtstruct(tmp_path / "rt.dcm", scan, {"two": 2}).array.any()


@pytest.mark.parametrize("value", ["nan", "1e400", "-inf"])
def test_points_that_are_nowhere_are_refused(scan: Scan, tmp_path: Path, value: str) -> None:
    path = tmp_path / "rt.dcm"
    draw(scan, path, rectangle((0, 0), (2, 0)))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"-13.3750", f"{value:8}".encode(), 1))
    assert path.read_bytes() != data
    assert code_of(lambda: read_rtstruct(path, scan, ROI)) == "DICOM_CONTOUR"


@pytest.mark.parametrize("count", [2, 9, 15])
def test_more_or_fewer_coordinates_than_announced_are_refused(scan: Scan, tmp_path: Path, count: int) -> None:
    path = tmp_path / "rt.dcm"
    dataset = draw(scan, path, rectangle((0, 0), (2, 0)))
    dataset.ROIContourSequence[0].ContourSequence[0].ContourData = ["1"] * count
    dataset.save_as(path)
    assert code_of(lambda: read_rtstruct(path, scan, ROI)) == "DICOM_CONTOUR"


def overlapping(scan: Scan, path: Path) -> Path:
    """Write a structure set whose structures share 2 x 1 pixels."""
    dataset = draw(scan, path, rectangle((0, 0), (3, 0)))
    other = draw(scan, path, rectangle((2, 0), (5, 0)), into=2)
    dataset.ROIContourSequence[1] = other.ROIContourSequence[1]
    dataset.save_as(path)
    return path


def test_structures_of_different_labels_that_overlap_are_refused(scan: Scan, tmp_path: Path) -> None:
    path = overlapping(scan, tmp_path / "rt.dcm")
    with pytest.raises(DataError, match=r"^2 voxels") as caught:
        read_rtstruct(path, scan, {"one": 1, "two": 2})
    assert caught.value.code == "DICOM_SEGMENTS_OVERLAP"


@pytest.mark.parametrize(("rois", "counts"), [({"one": 1, "two": 2}, (2, 4)), ({"two": 2, "one": 1}, (4, 2))])
def test_the_later_structure_wins_where_that_is_asked_for(
    scan: Scan, tmp_path: Path, rois: dict[str, int], counts: tuple[int, int]
) -> None:
    array = read_rtstruct(overlapping(scan, tmp_path / "rt.dcm"), scan, rois, overlap="later").array
    assert (np.count_nonzero(array == 1), np.count_nonzero(array == 2)) == counts


def test_structures_of_one_label_are_united(scan: Scan, tmp_path: Path) -> None:
    array = read_rtstruct(overlapping(scan, tmp_path / "rt.dcm"), scan, {"one": 1, "two": 1}).array
    assert array.sum() == 6


def edit_space(dataset: Dataset) -> None:
    for item in dataset.StructureSetROISequence:
        item.ReferencedFrameOfReferenceUID = "1.2.3"


def edit_series(dataset: Dataset) -> None:
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def edit_both_away(dataset: Dataset) -> None:
    del dataset.ReferencedFrameOfReferenceSequence, dataset.FrameOfReferenceUID
    for item in dataset.StructureSetROISequence:
        del item.ReferencedFrameOfReferenceUID


@pytest.mark.parametrize("edit", [edit_space, edit_series, edit_both_away])
def test_a_structure_set_of_another_series_or_space_is_refused(
    scan: Scan, tmp_path: Path, edit: Callable[[Dataset], None]
) -> None:
    path = tmp_path / "rt.dcm"
    dataset = draw(scan, path, rectangle((0, 0), (2, 0)))
    edit(dataset)
    dataset.save_as(path)
    assert code_of(lambda: read_rtstruct(path, scan, ROI)) == "LABEL_REFERENCE"


def test_no_name_of_a_structure_is_in_a_message(scan: Scan, tmp_path: Path) -> None:
    write_rtstruct(tmp_path / "rt.dcm", paint(scan, 1), scan, {1: "Nobodys left", 2: "Nobodys right"})
    with pytest.raises(DataError) as caught:
        read_rtstruct(tmp_path / "rt.dcm", scan, {"nobody*": 1})
    assert caught.value.code == "LABEL_ROI"
    assert "#1 #2" in caught.value.message
    assert "Nobodys" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("announces_length", [True, False])
def test_every_way_to_cut_a_file_off_is_refused_or_harmless(
    scan: Scan, tmp_path: Path, announces_length: bool
) -> None:
    path = tmp_path / "rt.dcm"
    write_rtstruct(path, paint(scan, 1, (slice(2, 6), slice(3, 5), slice(0, 5))), scan, NAMES)
    dataset = pydicom.dcmread(path)
    dataset["ROIContourSequence"].is_undefined_length = not announces_length
    dataset.save_as(path)
    whole, expected = path.read_bytes(), read_rtstruct(path, scan, ROI).array
    refused = 0
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            array = read_rtstruct(path, scan, ROI).array
        except DataError:
            refused += 1
        else:
            np.testing.assert_array_equal(array, expected)
    assert refused > 0.9 * len(range(0, len(whole), 7))


def test_deflated_files_are_read(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "rt.dcm"
    dataset = draw(scan, path, rectangle((0, 0), (2, 0)))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    assert read_rtstruct(path, scan, ROI).array.sum() == 3


def test_another_kind_of_object_is_refused(scan: Scan) -> None:
    assert code_of(lambda: read_rtstruct(scan.files[0], scan, ROI)) == "LABEL_KIND"


def test_a_missing_file_is_refused(scan: Scan, tmp_path: Path) -> None:
    assert code_of(lambda: read_rtstruct(tmp_path / "none.dcm", scan, ROI)) == "FILE_UNREADABLE"


def test_structures_are_listed_by_number_and_name(scan: Scan, tmp_path: Path) -> None:
    write_rtstruct(tmp_path / "rt.dcm", paint(scan, 4), scan, {4: "four", 2: "two"})
    assert list_structures(tmp_path / "rt.dcm") == [(2, "two"), (4, "four")]


@pytest.mark.parametrize("name", ["CT", "PET", "MR_T1"])
def test_published_structures_are_the_published_masks(medseg_data: Path, name: str) -> None:
    folder = medseg_data / "sts_dicom" / "STS_001"
    scan = read_back(folder / "dicom" / name / "image")
    labels = read_rtstruct(folder / "dicom" / name / "mask" / "RS.dcm", scan, {"gtv_mass*": 1})
    image = nib.load(folder / "nifti" / f"{name}_mask.nii.gz")
    truth = np.asarray(image.dataobj).astype(np.uint8)
    truth = reorder(truth, Geometry(truth.shape, image.affine), scan.geometry)
    np.testing.assert_array_equal(labels.array, truth)
