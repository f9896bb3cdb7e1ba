"""Header values that no volume can be made of without guessing: each series is refused with its code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from tests.dicom_edits import REPAIRS, Build, Case, drop, one, only, put, raw, reject
from tests.dicom_enhanced import FrameEdit, Object, Part, in_order, write_enhanced
from tests.dicom_files import AXIAL, Ramp, Store, Truth, texts


def lookup_table(dataset: Dataset, k: int) -> None:
    """Add a modality LUT that squares; it stands in place of slope and intercept."""
    del dataset.RescaleSlope, dataset.RescaleIntercept
    item = Dataset()
    item.add_new(0x00283002, "US", [4096, 0, 16])
    item.add_new(0x00283004, "LO", "US")
    item.add_new(0x00283006, "OW", (np.arange(4096) ** 2 // 256).astype("<u2").tobytes())
    dataset.ModalityLUTSequence = Items([item])


def enhanced(
    edit: FrameEdit | None = None,
    order: tuple[int, ...] = (3, 0, 4, 1, 2),
    part: FrameEdit | None = None,
) -> Build:
    def make(folder: Path) -> tuple[Truth, ...]:
        parts = [replace(p, edit=part if at == 1 else None) for at, p in enumerate(in_order(order))]
        return (write_enhanced(folder / "image", parts, Object(edit=edit, shared=())),)

    return make


def set_all(**values: object) -> FrameEdit:
    def edit(dataset: Dataset) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return edit


def drop_group(name: str) -> FrameEdit:
    def edit(item: Dataset) -> None:
        delattr(item, name)

    return edit


def drop_intercept(item: Dataset) -> None:
    del item.PixelValueTransformationSequence[0].RescaleIntercept


def cut_frames(dataset: Dataset) -> None:
    dataset.PixelData = bytes(dataset.PixelData)[: 4 * 84]


def drop_item(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence = Items(list(dataset.PerFrameFunctionalGroupsSequence)[:-1])


def two_at_one_place(folder: Path) -> tuple[Truth, ...]:
    parts = [*in_order((0, 1, 2, 3, 4)), Part(2, AXIAL, Ramp(base=1300))]
    return (write_enhanced(folder / "image", parts),)


VALUES = [
    reject("rows_zero", "DICOM_HEADER", one(edit=only(4, put(Rows=0)))),
    reject("rows_absent", "DICOM_HEADER", one(edit=only(4, drop("Rows")))),
    reject("columns_absent_in_all", "DICOM_HEADER", one(edit=drop("Columns"))),
    reject("bits_allocated_12", "DICOM_HEADER", one(edit=put(BitsAllocated=12))),
    reject("bits_stored_above_allocated", "DICOM_HEADER", one(edit=put(BitsStored=17))),
    reject("bits_stored_zero", "DICOM_HEADER", one(edit=put(BitsStored=0))),
    reject("high_bit_below_bits_stored", "DICOM_HEADER", one(edit=put(HighBit=3))),
    reject("sign_unknown", "DICOM_HEADER", one(edit=drop("PixelRepresentation"))),
    reject("pixel_spacing_absent", "DICOM_PIXEL_SPACING", one(edit=drop("PixelSpacing"))),
    reject("pixel_spacing_of_one_number", "DICOM_PIXEL_SPACING", one(edit=put(PixelSpacing="1.25"))),
    reject("pixel_spacing_zero", "DICOM_PIXEL_SPACING", one(edit=put(PixelSpacing=["0", "0.75"]))),
    reject("pixel_spacing_negative", "DICOM_PIXEL_SPACING", one(edit=put(PixelSpacing=["1.25", "-0.75"]))),
    reject("pixel_spacing_nan", "DICOM_PIXEL_SPACING", one(edit=raw("PixelSpacing", b"nan\\nan"))),
    reject("pixel_spacing_text", "DICOM_PIXEL_SPACING", one(edit=raw("PixelSpacing", b"1,25\\0,75"))),
    reject(
        "pixel_spacing_absent_in_one",
        "DICOM_PIXEL_SPACING|DICOM_MIXED_SIZE",
        one(edit=only(4, drop("PixelSpacing"))),
    ),
    reject("position_absent_in_all", "DICOM_POSITION", one(edit=drop("ImagePositionPatient"))),
    reject("position_absent_in_the_last", "DICOM_POSITION", one(edit=only(4, drop("ImagePositionPatient")))),
    reject(
        "position_of_two_numbers",
        "DICOM_POSITION",
        one(edit=only(4, raw("ImagePositionPatient", b"-13\\21"))),
    ),
    reject("position_nan", "DICOM_POSITION", one(edit=only(4, raw("ImagePositionPatient", b"nan\\21\\52")))),
    reject(
        "position_infinite",
        "DICOM_POSITION",
        one(edit=only(0, raw("ImagePositionPatient", b"-13\\21\\1e999"))),
    ),
    reject(
        "position_text", "DICOM_POSITION", one(edit=only(0, raw("ImagePositionPatient", b"-13\\21\\unknown")))
    ),
    reject("orientation_absent", "DICOM_ORIENTATION", one(edit=drop("ImageOrientationPatient"))),
    reject(
        "orientation_absent_in_the_last",
        "DICOM_ORIENTATION|DICOM_MIXED_ORIENTATION",
        one(edit=only(4, drop("ImageOrientationPatient"))),
    ),
    reject(
        "orientation_of_five_numbers",
        "DICOM_ORIENTATION",
        one(edit=put(ImageOrientationPatient=[1, 0, 0, 0, 1])),
    ),
    reject(
        "orientation_nan",
        "DICOM_ORIENTATION",
        one(edit=raw("ImageOrientationPatient", b"1\\0\\0\\0\\nan\\0")),
    ),
    reject(
        "orientation_zero", "DICOM_ORIENTATION", one(edit=put(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]))
    ),
    reject(
        "orientation_not_unit",
        "DICOM_ORIENTATION",
        one(edit=put(ImageOrientationPatient=[1, 0, 0, 0, 0.97, 0])),
    ),
    reject(
        "orientation_not_orthogonal",
        "DICOM_ORIENTATION",
        one(edit=put(ImageOrientationPatient=texts((1, 0, 0, 0.05, 0.99874922, 0)))),
    ),
    reject(
        "orientation_of_one_direction",
        "DICOM_ORIENTATION",
        one(edit=put(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])),
    ),
    reject("slope_zero", "DICOM_RESCALE", one(edit=only(3, put(RescaleSlope="0")))),
    reject("slope_nan", "DICOM_RESCALE", one(edit=only(3, raw("RescaleSlope", b"nan")))),
    reject("slope_text", "DICOM_RESCALE", one(edit=only(3, raw("RescaleSlope", b"one")))),
    reject("slope_empty", "DICOM_RESCALE", one(edit=only(3, raw("RescaleSlope", b"")))),
    reject("intercept_infinite", "DICOM_RESCALE", one(edit=only(3, raw("RescaleIntercept", b"inf")))),
    reject(
        "slope_absent_in_one",
        "DICOM_RESCALE",
        one(store=Store(rescale=((2, -100),)), edit=only(3, drop("RescaleSlope", "RescaleIntercept"))),
    ),
    reject(
        "intercept_absent_in_one",
        "DICOM_RESCALE",
        one(store=Store(rescale=((2, -100),)), edit=only(3, drop("RescaleIntercept"))),
    ),
    reject("slope_of_two_numbers", "DICOM_RESCALE", one(edit=only(3, raw("RescaleSlope", b"1\\2")))),
    reject("lookup_table", "DICOM_LUT", one(edit=lookup_table)),
]

ENHANCED = [
    reject("enhanced_frame_missing", "DICOM_GAP", enhanced(order=(0, 4, 1, 3)), *REPAIRS, says=(r"\b6\b",)),
    reject("enhanced_two_frames_at_one_place", "DICOM_OVERLAP", two_at_one_place, *REPAIRS),
    reject(
        "enhanced_frame_without_position",
        "DICOM_POSITION",
        enhanced(part=drop_group("PlanePositionSequence")),
    ),
    reject(
        "enhanced_frame_without_orientation",
        "DICOM_ORIENTATION|DICOM_MIXED_ORIENTATION",
        enhanced(part=drop_group("PlaneOrientationSequence")),
    ),
    reject(
        "enhanced_frame_without_spacing",
        "DICOM_PIXEL_SPACING|DICOM_MIXED_SIZE",
        enhanced(part=drop_group("PixelMeasuresSequence")),
    ),
    reject(
        "enhanced_frame_without_rescale",
        "DICOM_RESCALE",
        enhanced(part=drop_group("PixelValueTransformationSequence")),
    ),
    reject(
        "enhanced_frame_without_rescale_but_one_at_the_top",
        "DICOM_RESCALE",
        enhanced(set_all(RescaleSlope="3"), part=drop_group("PixelValueTransformationSequence")),
    ),
    reject("enhanced_frame_without_intercept", "DICOM_RESCALE", enhanced(part=drop_intercept)),
    reject("enhanced_pixel_data_too_short", "DICOM_TRUNCATED", enhanced(cut_frames)),
    reject("enhanced_more_frames_than_groups", "DICOM_HEADER", enhanced(drop_item)),
    reject("enhanced_fewer_frames_than_groups", "DICOM_HEADER", enhanced(set_all(NumberOfFrames=4))),
    reject(
        "enhanced_absurd_number_of_frames",
        "DICOM_TOO_LARGE|DICOM_TRUNCATED|DICOM_HEADER",
        enhanced(set_all(NumberOfFrames=2**31 - 1)),
    ),
    reject("enhanced_no_frames", "DICOM_HEADER", enhanced(set_all(NumberOfFrames=0))),
]

REJECT: list[Case] = [*VALUES, *ENHANCED]
