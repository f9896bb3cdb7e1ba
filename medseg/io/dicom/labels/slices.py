"""Label maps between the grid of a scan and the slices it was read from.

They are the same voxels unless the scan had to be repaired (tilt, uneven steps): then every pixel takes the
label at the nearest voxel centre, and the other way round. Nothing is interpolated or extrapolated: outside
lies background.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError
from medseg.core.geometry import Affine, Geometry
from medseg.core.volume import Labels
from medseg.io.dicom.scan import Scan

TIE = 1e-6
"""Of a voxel: of two equally near ones the upper is taken on the way to the source and the lower on the way
back, so that both ways undo each other and rounding noise does not decide."""


def to_source(labels: Labels, scan: Scan) -> NDArray[Any]:
    """Return the label of every pixel of the scan's slices.

    Args:
        labels: On `scan.geometry`, or the same grid stored in another order of axes.
        scan: The source.

    Returns:
        (columns, rows, slices), in the order of `scan.frames`.

    Raises:
        GeometryError: GRID_MISMATCH.
    """
    array = reorder(labels.array, labels.geometry, scan.geometry)
    if not scan.repair:
        return array
    return map_to_source(array, scan)


def map_to_source(array: NDArray[Any], scan: Scan) -> NDArray[Any]:
    """Take the nearest voxel of a repaired grid for every pixel of the slices.

    Args:
        array: (I, J, K) on `scan.geometry`.
        scan: The source.
    """
    pixels = scan.first.pixels
    assert pixels is not None
    result = np.zeros((pixels.columns, pixels.rows, len(scan.frames)), dtype=array.dtype)
    to_index = np.linalg.inv(scan.geometry.affine)
    for number, frame in enumerate(scan.frames):
        at = _nearest(to_index @ frame.plane, (pixels.columns, pixels.rows), TIE)
        is_inside = np.all([(a >= 0) & (a < n) for a, n in zip(at, array.shape, strict=True)], axis=0)
        result[is_inside, number] = array[at[0][is_inside], at[1][is_inside], at[2][is_inside]]
    return result


def from_source(array: NDArray[Any], scan: Scan) -> Labels:
    """Return labels drawn on the scan's slices as a label map on its grid.

    Args:
        array: (columns, rows, slices), in the order of `scan.frames`.
        scan: The source.
    """
    if not scan.repair:
        return Labels(array, scan.geometry)
    i, j, k = scan.geometry.shape
    result = np.zeros((i, j, k), dtype=array.dtype)
    planes = Planes(scan)
    for index in range(k):
        slab = scan.geometry.affine.copy()  # parallel to the slices
        slab[:3, 3] = scan.geometry.to_world([0, 0, index])
        number = planes.nearest(float(planes.measure(slab[:3, 3])))
        columns, rows, _ = _nearest(planes.to_pixels[number] @ slab, (i, j), -TIE)
        is_inside = (columns >= 0) & (columns < array.shape[0]) & (rows >= 0) & (rows < array.shape[1])
        result[is_inside, index] = array[columns[is_inside], rows[is_inside], number]
    return Labels(result, scan.geometry)


class Planes:
    """The planes of a scan's slices, to find the one that something lies in.

    Args:
        scan: Its slices are parallel.

    Attributes:
        to_pixels: (slices, 4, 4) RAS+ millimetres to (column, row, millimetres above the slice).
        tolerance_mm: How far off a plane something may lie: coordinates are often rounded to 0.1 mm. Less
            than half a step, so that the nearest slice is meant.
    """

    def __init__(self, scan: Scan) -> None:
        planes = np.array([frame.plane for frame in scan.frames])
        self.to_pixels = np.linalg.inv(planes)
        self._first, self._normal = planes[0, :3, 3], planes[0, :3, 2]
        self.distances_mm = self.measure(planes[:, :3, 3])
        steps = np.diff(self.distances_mm)
        step = float(steps.min()) if len(steps) else scan.geometry.spacing_mm[2]
        self.tolerance_mm = min(max(0.1 * step, 0.05), 0.4 * step)

    def measure(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of (..., 3) points from the first slice, along the normal."""
        return np.asarray((points - self._first) @ self._normal)

    def nearest(self, distance_mm: float) -> int:
        """Return the number of the slice nearest to a distance from the first."""
        return int(np.abs(self.distances_mm - distance_mm).argmin())


def _nearest(to_index: Affine, shape: tuple[int, int], tie: float) -> NDArray[np.intp]:
    """Return the (3, N, M) nearest indices of the points (n, m, 0) under an affine."""
    first, second = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    linear, offset = to_index[:3, :2], to_index[:3, 3]
    at = linear[:, 0, None, None] * first + linear[:, 1, None, None] * second + offset[:, None, None]
    return np.floor(at + 0.5 + tie).astype(np.intp)


def reorder(array: NDArray[Any], geometry: Geometry, target: Geometry) -> NDArray[Any]:
    """Bring voxels into the storage order of `target`, which must be the same grid.

    Args:
        array: (I, J, K) on `geometry`.
        geometry: Where the voxels lie.
        target: Its axes may be permuted and flipped against `geometry`.

    Raises:
        GeometryError: GRID_MISMATCH.
    """
    relation = np.linalg.inv(target.affine[:3, :3]) @ geometry.affine[:3, :3]
    steps = np.rint(relation).astype(int)
    if (np.abs(steps).sum(axis=0) == 1).all() and (np.abs(steps).sum(axis=1) == 1).all():
        order = [int(np.flatnonzero(row)[0]) for row in steps]  # the axis of `array` along each of `target`
        flips = tuple(slice(None, None, int(row.sum())) for row in steps)
        moved = array.transpose(order)[flips]
        affine = np.eye(4)
        affine[:3, :3] = geometry.affine[:3, order] * steps.sum(axis=1)
        first = np.array([0 if row.sum() > 0 else n - 1 for row, n in zip(steps, moved.shape, strict=True)])
        affine[:3, 3] = geometry.to_world(first[np.argsort(order)])
        difference = Geometry(moved.shape, affine).differs_from(target)
    else:
        moved, difference = array, "other directions or voxel sizes"
    if difference:
        raise GeometryError(
            f"the labels do not lie on the grid of the scan: {difference}",
            hint="resample the mask to the scan first",
            code="GRID_MISMATCH",
        )
    return moved
