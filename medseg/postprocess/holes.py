"""Cavities in a label map.

A cavity is a piece of background, connected over faces, that does not reach the border of the image.
An axis of one voxel has no border, so a 2D image (K = 1) has cavities too.
"""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.postprocess.components import CLOSE, LabelMap


def fill_holes(
    labels_IJK: LabelMap,
    geometry: Geometry,
    *,
    max_volume_mm3: float | None = None,
    labels: Sequence[int] | None = None,
) -> LabelMap:
    """Give each cavity the label that encloses it; one between two labels, or around another, stays open.

    Args:
        labels_IJK: (I, J, K); 0 is background.
        geometry: The grid of `labels_IJK`.
        max_volume_mm3: A larger cavity stays open, one of exactly this volume is filled; None fills all.
        labels: Labels whose cavities are filled; None is all.

    Returns:
        A new (I, J, K) array; only background changes.
    """
    result = np.array(labels_IJK, order="C")
    numbers, count = cc3d.connected_components(result == 0, connectivity=6, return_N=True)
    is_cavity = np.ones(count + 1, dtype=bool)
    is_cavity[0] = False
    for axis in _deep_axes(result.shape):
        is_cavity[np.take(numbers, [0, -1], axis=axis)] = False
    voxels = np.flatnonzero(is_cavity[numbers])
    if voxels.size:
        owners = numbers.ravel()[voxels]
        fill = _find_enclosing(result, voxels, owners, count)
        if labels is not None:
            fill[~np.isin(fill, labels)] = 0
        if max_volume_mm3 is not None:
            volumes_mm3 = np.bincount(owners, minlength=count + 1) * geometry.voxel_volume_mm3
            fill[volumes_mm3 > max_volume_mm3 * (1 + CLOSE)] = 0
        result.ravel()[voxels] = fill[owners]
    return result


def _find_enclosing(stored: LabelMap, voxels: NDArray[np.intp], owners: LabelMap, count: int) -> LabelMap:
    """Return (count + 1,) the one label that all face neighbours of a cavity hold, else 0.

    Args:
        stored: (I, J, K) in C order.
        voxels: (N,) flat indices of all cavity voxels; none lies on the border, so each has all neighbours.
        owners: (N,) the cavity each belongs to.
        count: The largest cavity number.
    """
    flat = stored.ravel()
    lowest = np.full(count + 1, np.iinfo(stored.dtype).max, dtype=stored.dtype)
    highest = np.zeros(count + 1, dtype=stored.dtype)
    for axis in _deep_axes(stored.shape):
        step = stored.strides[axis] // stored.itemsize
        for neighbours in (voxels - step, voxels + step):
            found = flat[neighbours]
            wall = found != 0
            np.minimum.at(lowest, owners[wall], found[wall])
            np.maximum.at(highest, owners[wall], found[wall])
    return np.where(lowest == highest, highest, 0).astype(stored.dtype)


def _deep_axes(shape: Sequence[int]) -> list[int]:
    return [axis for axis, size in enumerate(shape) if size > 1]
