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

Axes = tuple[tuple[int, int], ...]
"""For each axis of an array the stored axis that it is, and -1 where it runs backwards, else 1."""


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


def canonical_axes(geometry: Geometry) -> Axes:
    """Return the axes that run closest to R, A, S."""
    order = np.argsort([world for world, _ in geometry.axes])
    return tuple((int(index), geometry.axes[index][1]) for index in order)


def view_axes(array: NDArray[Any], axes: Axes) -> NDArray[Any]:
    """Permute and flip the last three axes without copying: what is written there lands in `array`."""
    lead = array.ndim - 3
    moved = np.transpose(array, [*range(lead), *(lead + index for index, _ in axes)])
    return np.flip(moved, tuple(lead + axis for axis, (_, sign) in enumerate(axes) if sign < 0))


def grid_on_axes(geometry: Geometry, axes: Axes) -> Geometry:
    """Return the grid of the voxels once their axes are permuted and flipped."""
    affine = geometry.affine.copy()
    affine[:3, :3] = geometry.affine[:3, [index for index, _ in axes]]
    for axis, (index, sign) in enumerate(axes):
        if sign < 0:
            affine[:3, 3] += affine[:3, axis] * (geometry.shape[index] - 1)
            affine[:3, axis] *= -1
    i, j, k = (geometry.shape[index] for index, _ in axes)
    return Geometry((i, j, k), affine)


def to_axes(array: NDArray[Any], geometry: Geometry, axes: Axes) -> tuple[NDArray[Any], Geometry]:
    """Permute and flip the last three axes; `from_axes` is its inverse.

    Only the storage order changes, no value is interpolated.

    Args:
        array: (..., I, J, K).
        geometry: The grid of the last three axes.
        axes: Where each new axis comes from.

    Returns:
        A contiguous array and its grid; world positions are unchanged.
    """
    return np.ascontiguousarray(view_axes(array, axes)), grid_on_axes(geometry, axes)


def from_axes(array: NDArray[Any], axes: Axes) -> NDArray[Any]:
    """Bring the last three axes of an array back to the order that `to_axes` took them from.

    Args:
        array: (..., I, J, K) on `axes`.
        axes: As they were given to `to_axes`.
    """
    lead = array.ndim - 3
    for axis, (_, sign) in enumerate(axes):
        if sign < 0:
            array = np.flip(array, lead + axis)
    back = np.argsort([index for index, _ in axes])
    return np.ascontiguousarray(np.transpose(array, [*range(lead), *(lead + back)]))


def to_canonical(array: NDArray[Any], geometry: Geometry) -> tuple[NDArray[Any], Geometry]:
    """Flip and permute the last three axes so that they run closest to R, A, S.

    Every decision (spacing, patch, mirroring) is made after it, so no result depends on how a scan
    happened to be stored. `from_canonical` is its inverse.

    Args:
        array: (..., I, J, K).
        geometry: The grid of the last three axes.

    Returns:
        A contiguous array and its grid; world positions are unchanged.
    """
    return to_axes(array, geometry, canonical_axes(geometry))


def from_canonical(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Bring the last three axes of a canonical array back to the storage order of `geometry`.

    Args:
        array: (..., I, J, K) in canonical order.
        geometry: The original grid, as it was given to `to_canonical`.
    """
    return from_axes(array, canonical_axes(geometry))
