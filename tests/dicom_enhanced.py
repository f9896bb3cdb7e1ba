"""Writes enhanced multi-frame objects whose frames lie in any order; see `dicom_files` for the ramp."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, EnhancedPETImageStorage

from tests.dicom_files import (
    AXIAL,
    RAMP,
    Grid,
    Ramp,
    Store,
    Truth,
    make_header,
    make_uid,
    save,
    set_pixels,
    texts,
)

ENHANCED = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage, "PT": EnhancedPETImageStorage}
ORIENTATION, MEASURES, RESCALE = "orientation", "measures", "rescale"

FrameEdit = Callable[[Dataset], None]


@dataclass(frozen=True)
class Part:
    """One frame: slice k of a grid; `edit` changes its functional groups, last of all."""

    k: int
    grid: Grid = AXIAL
    ramp: Ramp = RAMP
    edit: FrameEdit | None = None


@dataclass(frozen=True)
class Object:
    """One file.

    Args:
        shared: Which groups all frames share; the others are repeated frame by frame.
        edit: Changes the data set, last of all.
    """

    kind: str = "MR"
    store: Store = field(default_factory=Store)
    shared: Collection[str] = (ORIENTATION, MEASURES, RESCALE)
    series: int = 1
    number: int = 1
    edit: FrameEdit | None = None


PLAIN = Object()


def write_enhanced(path: Path, parts: Sequence[Part], made: Object = PLAIN) -> Truth:
    """Write one file; the truth is that of the first frame's grid and ramp."""
    dataset = make_header(made.kind, series=made.series)
    dataset.SOPClassUID = ENHANCED[made.kind]
    dataset.SOPInstanceUID = make_uid(1, made.series, made.number)
    dataset.InstanceNumber = made.number
    dataset.NumberOfFrames = len(parts)
    dataset.PresentationLUTShape = "IDENTITY"
    first = parts[0]
    common = make_groups(first, 0, made, made.shared)
    dataset.SharedFunctionalGroupsSequence = Items([common])
    own = {ORIENTATION, MEASURES, RESCALE} - set(made.shared)
    frames = [make_frame(part, at, made, own) for at, part in enumerate(parts)]
    dataset.PerFrameFunctionalGroupsSequence = Items(frames)
    stored = [
        made.store.encode(part.ramp.at(part.grid.points(part.k)), at if RESCALE in own else 0)
        for at, part in enumerate(parts)
    ]
    set_pixels(dataset, np.stack(stored), made.store)
    if made.edit is not None:
        with config.disable_value_validation():
            made.edit(dataset)
    save(path, dataset, made.store.syntax)
    return Truth(first.grid, first.ramp, max(abs(slope) for slope, _ in made.store.rescale) / 2 + 0.05)


def make_frame(part: Part, at: int, made: Object, own: Collection[str]) -> Dataset:
    item = make_groups(part, at, made, own)
    content = Dataset()
    content.StackID, content.InStackPositionNumber = "1", part.k + 1
    content.DimensionIndexValues = [1, part.k + 1]
    item.FrameContentSequence = Items([content])
    item.PlanePositionSequence = one_item(ImagePositionPatient=texts(part.grid.position(part.k)))
    if part.edit is not None:
        with config.disable_value_validation():
            part.edit(item)
    return item


def make_groups(part: Part, at: int, made: Object, groups: Collection[str]) -> Dataset:
    """Return the functional groups that may be shared or not."""
    item, grid = Dataset(), part.grid
    with config.disable_value_validation():
        if ORIENTATION in groups:
            item.PlaneOrientationSequence = one_item(ImageOrientationPatient=texts((*grid.row, *grid.column)))
        if MEASURES in groups:
            thickness = texts([float(np.linalg.norm(grid.step))])[0]
            item.PixelMeasuresSequence = one_item(PixelSpacing=texts(grid.pixel_mm), SliceThickness=thickness)
        if RESCALE in groups:
            slope, intercept = texts(made.store.rescale[at % len(made.store.rescale)])
            item.PixelValueTransformationSequence = one_item(
                RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US"
            )
    return item


def one_item(**values: object) -> Items:
    """Return a sequence of one item."""
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Items([item])


def in_order(order: Sequence[int], grid: Grid = AXIAL, ramp: Ramp = RAMP) -> list[Part]:
    """Return one frame a slice, in the given order of slices."""
    return [Part(k, grid, ramp) for k in order]
