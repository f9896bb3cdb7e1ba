from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from medseg.core.errors import DataError
from medseg.io.dicom import Scan
from medseg.io.dicom.labels.seg import read_seg, write_seg
from tests.dicom_labels import (
    NAMES,
    code_of,
    make_labels,
    make_scan,
    paint,
)

BY_NAME = {"one": 1, "two": 2}


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return make_scan(tmp_path)


@pytest.fixture
def written(scan: Scan, tmp_path: Path) -> Path:
    """A binary segmentation of noise in two labels."""
    write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, NAMES)
    return tmp_path / "seg.dcm"


def read_masks(dataset: Dataset) -> NDArray[np.uint8]:
    """Return the (frames, rows, columns) bits of a binary segmentation."""
    frames = int(dataset.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    return bits[: frames * dataset.Rows * dataset.Columns].reshape(frames, dataset.Rows, dataset.Columns)


def put_masks(dataset: Dataset, masks: NDArray[np.uint8], keep: Sequence[int]) -> None:
    """Store other bits, and the functional groups of the frames in `keep` with them."""
    groups = dataset.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = [groups[number] for number in keep]
    dataset.NumberOfFrames = len(keep)
    dataset.PixelData = pack_bits(masks)


def test_a_fractional_segment_takes_half_and_more_of_its_maximum(scan: Scan, tmp_path: Path) -> None:
    shares = np.zeros((1, *scan.geometry.shape))
    shares[0, :3, 0, 0] = 0.49, 0.51, 1.0
    labels = paint(scan, 1, (slice(1, 3), slice(1), slice(1)))
    write_seg(tmp_path / "seg.dcm", labels, scan, {1: "one"}, kind="fractional", probabilities=shares)
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", scan, {"one": 1}).array, labels.array)


def test_frames_are_found_by_position_in_any_order_and_number(scan: Scan, written: Path) -> None:
    dataset = pydicom.dcmread(written)
    masks = read_masks(dataset)
    order = [number for number in reversed(range(10)) if masks[number].any() and number not in (1, 7)]
    lost = [dataset.PerFrameFunctionalGroupsSequence[number] for number in (1, 7)]
    put_masks(dataset, masks[order], order)
    dataset.save_as(written)
    expected = make_labels(scan).array
    heights = [frame.position_mm[2] for frame in scan.frames if frame.position_mm]
    for group in lost:
        k = heights.index(float(group.PlanePositionSequence[0].ImagePositionPatient[2]))
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        plane = expected[..., k]
        plane[plane == segment] = 0
    np.testing.assert_array_equal(read_seg(written, scan, BY_NAME).array, expected)


def test_frames_flipped_within_their_slice_are_turned_back(scan: Scan, written: Path) -> None:
    dataset = pydicom.dcmread(written)
    put_masks(dataset, read_masks(dataset)[:, :, ::-1].copy(), range(10))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0].ImagePositionPatient
        position[0] = float(position[0]) + 10 * 0.75
    dataset.save_as(written)
    np.testing.assert_array_equal(read_seg(written, scan, BY_NAME).array, make_labels(scan).array)


def shift(dataset: Dataset) -> None:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient[0] += 0.5


def lift(dataset: Dataset) -> None:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient[2] += 1.5


def turn(dataset: Dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 0, 0, 1]


def widen(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.25, 0.8]


@pytest.mark.parametrize("edit", [shift, lift, turn, widen])
def test_a_segmentation_on_other_pixels_is_refused(
    scan: Scan, written: Path, edit: Callable[[Dataset], None]
) -> None:
    dataset = pydicom.dcmread(written)
    edit(dataset)
    dataset.save_as(written)
    assert code_of(lambda: read_seg(written, scan, BY_NAME)) == "GRID_MISMATCH"


def test_two_frames_of_a_segment_at_one_position_are_refused(scan: Scan, written: Path) -> None:
    dataset = pydicom.dcmread(written)
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
    dataset.save_as(written)
    assert code_of(lambda: read_seg(written, scan, BY_NAME)) == "DICOM_OVERLAP"


@pytest.fixture
def overlapping(written: Path) -> Path:
    """Let both segments hold the first pixel of one slice."""
    dataset = pydicom.dcmread(written)
    masks = read_masks(dataset)
    masks[[2, 7], 0, 0] = 1
    put_masks(dataset, masks, range(10))
    dataset.save_as(written)
    return written


def test_segments_of_different_labels_that_overlap_are_refused(scan: Scan, overlapping: Path) -> None:
    with pytest.raises(DataError, match=r"^1 voxels") as caught:
        read_seg(overlapping, scan, BY_NAME)
    assert caught.value.code == "DICOM_SEGMENTS_OVERLAP"


@pytest.mark.parametrize("later", [1, 2])
def test_the_later_segment_wins_where_that_is_asked_for(scan: Scan, overlapping: Path, later: int) -> None:
    segments = {f"#{3 - later}": 3 - later, f"#{later}": later}
    array = read_seg(overlapping, scan, segments, overlap="later").array
    k = [frame for frame in range(5) if array[0, 0, frame] != make_labels(scan).array[0, 0, frame]]
    assert array[0, 0, 2] == later
    assert set(k) <= {2}


def test_overlapping_segments_of_one_label_are_united(scan: Scan, overlapping: Path) -> None:
    array = read_seg(overlapping, scan, {"one": 1, "two": 1}).array
    expected = make_labels(scan).array > 0
    expected[0, 0, 2] = True
    np.testing.assert_array_equal(array, expected)


def test_segments_that_are_not_asked_for_are_left_out(scan: Scan, overlapping: Path) -> None:
    array = read_seg(overlapping, scan, {"two": 5}).array
    assert set(np.unique(array)) == {0, 5}


def edit_space(dataset: Dataset) -> None:
    dataset.FrameOfReferenceUID = "1.2.3"


def edit_series(dataset: Dataset) -> None:
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


@pytest.mark.parametrize("edit", [edit_space, edit_series])
def test_a_segmentation_of_another_series_or_space_is_refused(
    scan: Scan, written: Path, edit: Callable[[Dataset], None]
) -> None:
    dataset = pydicom.dcmread(written)
    edit(dataset)
    dataset.save_as(written)
    assert code_of(lambda: read_seg(written, scan, BY_NAME)) == "LABEL_REFERENCE"


@pytest.mark.parametrize("number", [7, 0, 65535, None])
def test_frames_of_a_segment_that_is_not_described_are_refused(
    scan: Scan, written: Path, number: int | None
) -> None:
    dataset = pydicom.dcmread(written)
    for group in dataset.PerFrameFunctionalGroupsSequence[:5]:
        (item,) = group.SegmentIdentificationSequence
        item.ReferencedSegmentNumber = number
    dataset.save_as(written)
    assert code_of(lambda: read_seg(written, scan, {"two": 2})) == "DICOM_HEADER"


@pytest.mark.parametrize("number", [99999, 65536, -2, None])
def test_numbers_that_no_segment_can_have_are_refused(scan: Scan, written: Path, number: int | None) -> None:
    dataset = pydicom.dcmread(written)
    dataset.SegmentSequence[0].add(DataElement("SegmentNumber", "IS", number))
    dataset.save_as(written, enforce_file_format=False)
    assert code_of(lambda: read_seg(written, scan, {"one": 1})) == "DICOM_HEADER"


@pytest.fixture
def label_map(scan: Scan, tmp_path: Path) -> Path:
    write_seg(tmp_path / "seg.dcm", make_labels(scan), scan, NAMES, kind="labelmap")
    return tmp_path / "seg.dcm"


def test_a_pixel_of_a_label_map_that_no_segment_describes_is_refused(scan: Scan, label_map: Path) -> None:
    dataset = pydicom.dcmread(label_map)
    pixels = bytearray(dataset.PixelData)
    pixels[-2] = 3
    dataset.PixelData = bytes(pixels)
    dataset.save_as(label_map)
    assert code_of(lambda: read_seg(label_map, scan, {"one": 1})) == "DICOM_HEADER"


def test_segments_of_a_label_map_that_are_not_asked_for_are_left_out(scan: Scan, label_map: Path) -> None:
    expected = (make_labels(scan).array == 2) * 5
    np.testing.assert_array_equal(read_seg(label_map, scan, {"two": 5}).array, expected)


@pytest.mark.parametrize("maximum", [0, 256, None])
def test_an_impossible_maximum_of_fractions_is_refused(
    scan: Scan, tmp_path: Path, maximum: int | None
) -> None:
    path = tmp_path / "seg.dcm"
    shares = np.zeros((1, *scan.geometry.shape))
    write_seg(path, paint(scan, 1), scan, {1: "one"}, kind="fractional", probabilities=shares)
    dataset = pydicom.dcmread(path)
    dataset.MaximumFractionalValue = maximum
    dataset.save_as(path)
    assert code_of(lambda: read_seg(path, scan, {"one": 1})) == "DICOM_HEADER"


def test_compressed_label_maps_are_read(scan: Scan, tmp_path: Path) -> None:
    labels = make_labels(scan)
    write_seg(tmp_path / "seg.dcm", labels, scan, NAMES, kind="labelmap")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    dataset.save_as(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", scan, BY_NAME).array, labels.array)


def test_deflated_files_are_read(scan: Scan, written: Path) -> None:
    dataset = pydicom.dcmread(written)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(written, implicit_vr=False, little_endian=True)
    np.testing.assert_array_equal(read_seg(written, scan, BY_NAME).array, make_labels(scan).array)


def test_every_way_to_cut_a_file_off_is_refused(scan: Scan, written: Path) -> None:
    whole = written.read_bytes()
    for length in (*range(0, len(whole) - 20, 53), *range(len(whole) - 20, len(whole) - 1)):
        written.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_seg(written, scan, BY_NAME)


@pytest.mark.parametrize(("keyword", "value"), [("Rows", 60000), ("NumberOfFrames", 2**31 - 1)])
def test_absurd_sizes_are_refused_before_anything_is_allocated(
    scan: Scan, written: Path, keyword: str, value: int
) -> None:
    dataset = pydicom.dcmread(written)
    dataset[keyword].value = value
    dataset.save_as(written)
    assert code_of(lambda: read_seg(written, scan, BY_NAME)) in {"DICOM_TRUNCATED", "DICOM_TOO_LARGE"}


@pytest.mark.parametrize(
    ("found", "instead"),
    [
        (b"\x62\x00\x04\x00US\x02\x00", b"\x62\x00\x04\x00US\x03\x00"),  # a segment's number of three bytes
        (b"\x62\x00\x0a\x00SQ\x00\x00", b"\x62\x00\x0a\x00SQ\x00\x01"),
        (b"\x20\x00\x32\x00DS", b"\x20\x00\x33\x00DS"),  # positions of another name
        (b"\x08\x00\x24\x91SQ", b"\x08\x00\x24\x91UN"),
    ],
)
def test_malformed_elements_are_refused_or_harmless(
    scan: Scan, written: Path, found: bytes, instead: bytes
) -> None:
    data = written.read_bytes()
    assert found in data
    written.write_bytes(data.replace(found, instead))
    try:
        array = read_seg(written, scan, BY_NAME).array
    except DataError as error:
        assert error.code in {"DICOM_DAMAGED", "DICOM_POSITION"}
    else:
        np.testing.assert_array_equal(array, make_labels(scan).array)


def test_an_unknown_type_of_segmentation_is_refused(scan: Scan, written: Path) -> None:
    dataset = pydicom.dcmread(written)
    dataset.SegmentationType = "OTHER"
    dataset.save_as(written)
    assert code_of(lambda: read_seg(written, scan, BY_NAME)) == "DICOM_HEADER"


def test_another_kind_of_object_is_refused(scan: Scan) -> None:
    assert code_of(lambda: read_seg(scan.files[0], scan, BY_NAME)) == "LABEL_KIND"
