"""Read one case whole: channels stacked on one grid, label values brought to classes.

Stored values may be anything ({0, 205, 420}); inside, *classes* are 0 (background), 1, 2, ... in
ascending order of the stored values. `class_values` maps back. Voxels of the ignore label are class 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import DataError, GeometryError
from medseg.core.volume import IGNORED, Labels, Volume
from medseg.data.cases import Case
from medseg.data.settings import Data
from medseg.io import read_labels, read_volume

NOTES = (("DICOM_HIGH_BITS", "bits outside those that hold the value were in use, and are left out"),)
"""What only the voxels tell of an image: a code that `read_volume` notes, and what it means."""

DENSE = 1 << 16  # label values that lie closer together are counted in a table


@dataclass(frozen=True)
class LoadedCase:
    """A case in memory, as stored: (C, I, J, K) image and (I, J, K) classes on one grid."""

    image: Volume
    classes: Labels | None


def tell_notes(notes: set[str]) -> list[tuple[str, str]]:
    """Return (code, message) of what reading the voxels noted."""
    meanings = dict(NOTES)
    return [(code, meanings[code]) for code in sorted(notes)]


def load_case(case: Case, settings: Data, notes: set[str] | None = None) -> LoadedCase:
    """Read and cross-check all files of a case.

    Args:
        case: What to read.
        settings: The pipeline's.
        notes: Gets codes of warnings that only the voxels tell; see `NOTES`.

    Raises:
        DataError: CHANNELS, GRID_MISMATCH, LABEL_MISSING, LABEL_VALUE, or what reading or finding it raises.
    """
    image = load_image(case, len(settings.channels), notes)
    if case.label is None:
        return LoadedCase(image, None)
    stored = read_labels(case.label)
    if difference := image.geometry.differs_from(stored.geometry):
        raise GeometryError(
            f"image and label lie on different grids: {difference}",
            hint="export both on one grid; medseg does not guess which one is right",
            code="GRID_MISMATCH",
        )
    return LoadedCase(image, Labels(to_classes(stored.array, settings), image.geometry))


def load_image(case: Case, n_channels: int, notes: set[str] | None = None) -> Volume:
    """Read a case's image files and stack their channels; `notes` as in `load_case`.

    Raises:
        DataError: CHANNELS or GRID_MISMATCH, or what reading or finding it raises.
    """
    if case.error is not None:
        raise case.error
    if not case.images:
        raise DataError(
            "no image file, or not exactly one a channel, was found",
            hint="check data.channels.<name>.pattern",
            code="CHANNEL_MISSING",
        )
    volumes = [read_volume(image, notes) for image in case.images]
    found = sum(len(volume.array) for volume in volumes)
    if found != n_channels:
        raise DataError(
            f"the image has {found} channels where the pipeline has {n_channels}",
            hint="a 4D file must hold one volume a channel along its last axis",
            code="CHANNELS",
        )
    for volume in volumes[1:]:
        if difference := volumes[0].geometry.differs_from(volume.geometry):
            raise GeometryError(
                f"channels lie on different grids: {difference}",
                hint="register or resample the channels onto one grid first",
                code="GRID_MISMATCH",
            )
    if len(volumes) == 1:
        return volumes[0]
    return Volume(np.concatenate([volume.array for volume in volumes]), volumes[0].geometry)


def class_values(settings: Data) -> list[int]:
    """Return the stored value of every class; index 0 is background."""
    return [0, *sorted(settings.labels)]


def to_classes(stored: NDArray[Any], settings: Data) -> NDArray[np.uint8]:
    """Map stored label values to classes, through `label_map` first.

    Raises:
        DataError: LABEL_VALUE, where a value is neither mapped nor listed.
    """
    class_of = {value: index for index, value in enumerate(class_values(settings))}
    if settings.ignore_label is not None:
        class_of[settings.ignore_label] = IGNORED
    values, counts = _count_values(stored)
    mapped = [_map_value(int(value), settings) for value in values]
    unknown = [
        f"{value} ({count} voxels)" for value, to, count in zip(values, mapped, counts) if to not in class_of
    ]
    if unknown:
        raise DataError(
            f"the label holds values that the pipeline does not list: {', '.join(unknown[:5])}",
            hint="add them to data.labels or data.label_map",
            code="LABEL_VALUE",
        )
    found = np.array([class_of[value] for value in mapped], np.uint8)
    low, high = int(values[0]), int(values[-1])
    if high - low >= DENSE:
        return np.asarray(found[np.searchsorted(values, stored)])
    table = np.zeros(high - low + 1, np.uint8)
    table[values - low] = found
    classes = np.empty(stored.shape, np.uint8)
    for plane, target in zip(stored, classes, strict=True):
        np.take(table, plane.astype(np.int64) - low, out=target)
    return classes


def _count_values(stored: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the values that occur, ascending, and their numbers of voxels.

    Counted plane by plane: sorting a whole CT's labels takes seconds and gigabytes.
    """
    low, high = int(stored.min()), int(stored.max())
    if high - low >= DENSE:
        values, counts = np.unique(stored, return_counts=True)
        return values.astype(np.int64), counts
    counts = np.zeros(high - low + 1, np.int64)
    for plane in stored:
        counts += np.bincount(plane.ravel().astype(np.int64) - low, minlength=len(counts))
    present = np.flatnonzero(counts)
    return present + low, counts[present]


def _map_value(value: int, settings: Data) -> int:
    if value in settings.label_map:
        return settings.label_map[value]
    return settings.label_map.get("nonzero", value) if value else 0


def to_stored(classes: NDArray[Any], settings: Data) -> NDArray[np.uint16]:
    """Map classes back to stored label values."""
    table = np.zeros(IGNORED + 1, np.uint16)
    table[: len(settings.labels) + 1] = class_values(settings)
    table[IGNORED] = settings.ignore_label or table[IGNORED]
    return np.asarray(table[classes])


def output_names(settings: Data) -> list[str]:
    """Return what a network's outputs are scored as: the regions, or the labels without background."""
    if settings.regions:
        return [region.name for region in settings.regions]
    return [settings.labels[value] for value in sorted(settings.labels)]


def region_classes(settings: Data) -> list[tuple[int, ...]]:
    """Return the classes that each region covers; empty where labels exclude each other."""
    values = class_values(settings)
    return [tuple(values.index(value) for value in region.covers) for region in settings.regions]


def region_paints(settings: Data) -> list[int]:
    """Return the class that each region paints, in the order of painting."""
    values = class_values(settings)
    return [values.index(region.paints) for region in settings.regions]
