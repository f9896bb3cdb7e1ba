"""What voxels hold: images and label maps on a grid.

Shape legend: C channels, (I, J, K) voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry

IGNORED = 255  # class of voxels that count for nothing, where a label is a map of classes


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on a grid.

    Args:
        array: (C, I, J, K) real numbers; a gray image has C = 1, a 2D image K = 1.
        geometry: The grid of the last three axes.
    """

    array: NDArray[Any]
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.geometry.shape:
            raise GeometryError(f"array {self.array.shape} does not lie on grid {self.geometry.shape}")


@dataclass(frozen=True, eq=False)
class Labels:
    """A label map on a grid; 0 is background.

    Args:
        array: (I, J, K) integers.
        geometry: The grid.
    """

    array: NDArray[Any]
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise GeometryError(f"array {self.array.shape} does not lie on grid {self.geometry.shape}")
        if not np.issubdtype(self.array.dtype, np.integer):
            raise GeometryError(f"labels are integers, not {self.array.dtype}")


def to_canonical(array: NDArray[Any], geometry: Geometry) -> tuple[NDArray[Any], Geometry]:
    """Flip and permute the last three axes so that they run closest to R, A, S.

    Only the storage order changes, no value is interpolated; `from_canonical` is its inverse. Every
    decision (spacing, patch, mirroring) is made after it, so no result depends on how a scan
    happened to be stored.

    Args:
        array: (..., I, J, K).
        geometry: The grid of the last three axes.

    Returns:
        A contiguous array and its grid; world positions are unchanged.
    """
    return np.ascontiguousarray(view_canonical(array, geometry)), canonical_grid(geometry)


def canonical_grid(geometry: Geometry) -> Geometry:
    """Return the grid of `to_canonical`."""
    order = np.argsort([world for world, _ in geometry.axes])
    affine = geometry.affine.copy()
    affine[:3, :3] = geometry.affine[:3, order]
    for axis, index in enumerate(order):
        if geometry.axes[index][1] < 0:
            affine[:3, 3] += affine[:3, axis] * (geometry.shape[index] - 1)
            affine[:3, axis] *= -1
    i, j, k = (geometry.shape[index] for index in order)
    return Geometry((i, j, k), affine)


def view_canonical(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Return the voxels of `to_canonical` without copying them: what is written there lands in `array`."""
    order = np.argsort([world for world, _ in geometry.axes])
    lead = array.ndim - 3
    moved = np.transpose(array, [*range(lead), *(lead + order)])
    return np.flip(moved, tuple(lead + axis for axis in range(3) if geometry.axes[order[axis]][1] < 0))


def from_canonical(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Bring the last three axes of a canonical array back to the storage order of `geometry`.

    Args:
        array: (..., I, J, K) in canonical order.
        geometry: The original grid, as it was given to `to_canonical`.
    """
    order = np.argsort([world for world, _ in geometry.axes])
    lead = array.ndim - 3
    for axis, index in enumerate(order):
        if geometry.axes[index][1] < 0:
            array = np.flip(array, lead + axis)
    return np.ascontiguousarray(np.transpose(array, [*range(lead), *(lead + np.argsort(order))]))
