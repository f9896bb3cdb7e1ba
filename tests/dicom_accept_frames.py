"""Multi-frame objects that are good: each must be read without a warning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1, RLELossless

from tests.dicom_edits import Build, Case, accept
from tests.dicom_enhanced import MEASURES, ORIENTATION, PLAIN, RESCALE, Object, in_order, write_enhanced
from tests.dicom_files import AXIAL, DOUBLE_OBLIQUE, OBLIQUE, SAGITTAL, Grid, Ramp, Store, Truth, make_uid

SHUFFLED = (3, 0, 4, 1, 2)


def enhanced(order: tuple[int, ...] = SHUFFLED, grid: Grid = AXIAL, made: Object = PLAIN) -> Build:
    return lambda folder: (write_enhanced(folder / "image", in_order(order, grid), made),)


def concatenation(folder: Path) -> tuple[Truth, ...]:
    """Write one enhanced object split over two files."""
    for number, order in ((1, (4, 0, 2)), (2, (3, 1))):
        made = Object(number=number, edit=concatenated(number))
        write_enhanced(folder / f"{number}.dcm", in_order(order), made)
    return (Truth(AXIAL),)


def concatenated(number: int) -> Callable[[Dataset], None]:
    def edit(dataset: Dataset) -> None:
        dataset.ConcatenationUID = make_uid(1, 1, 77)
        dataset.InConcatenationNumber, dataset.InConcatenationTotalNumber = number, 2
        dataset.ConcatenationFrameOffsetNumber = 0 if number == 1 else 3

    return edit


def parametric_map(name: str, dtype: str) -> Build:
    """Write an enhanced object of floating-point numbers."""

    def put_floats(dataset: Dataset) -> None:
        values = np.stack([Ramp().at(AXIAL.points(k)) for k in SHUFFLED])
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.30"
        del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        dataset.BitsAllocated = np.dtype(dtype).itemsize * 8
        setattr(dataset, name, values.astype(dtype).tobytes())

    def make(folder: Path) -> tuple[Truth, ...]:
        made = Object(edit=put_floats)
        truth = write_enhanced(folder / "map.dcm", in_order(SHUFFLED), made)
        return (replace(truth, slack=0.01),)

    return make


ACCEPT: list[Case] = [
    accept("enhanced", enhanced((0, 1, 2, 3, 4))),
    accept("enhanced_shuffled", enhanced()),
    accept("enhanced_ct", enhanced(grid=OBLIQUE, made=Object(kind="CT", store=Store(rescale=((1, -1024),))))),
    accept(
        "enhanced_pet",
        enhanced(made=Object(kind="PT", shared=(), store=Store(rescale=((0.05, 0), (0.06, 0))))),
    ),
    accept("enhanced_nothing_shared", enhanced(grid=DOUBLE_OBLIQUE, made=Object(shared=()))),
    accept(
        "enhanced_rescale_by_frame",
        enhanced(
            made=Object(shared=(ORIENTATION, MEASURES), store=Store(rescale=((0.5, 0), (0.25, 100), (1, -7))))
        ),
    ),
    accept("enhanced_sagittal", enhanced(grid=SAGITTAL, made=Object(shared=(RESCALE, MEASURES)))),
    accept("enhanced_rle", enhanced(made=Object(store=Store(syntax=RLELossless)))),
    accept("enhanced_jpeg_lossless", enhanced(made=Object(store=Store(syntax=JPEGLosslessSV1, stored=12)))),
    accept("enhanced_in_two_files", concatenation),
    accept("enhanced_one_frame", enhanced((0,), replace(AXIAL, at=(0.0,)))),
    accept("parametric_map_float", parametric_map("FloatPixelData", "<f4")),
    accept("parametric_map_double", parametric_map("DoubleFloatPixelData", "<f8")),
]
