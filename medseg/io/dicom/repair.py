"""Bring tilted or unevenly spaced slices onto an orthogonal grid, by linear interpolation.

Tilt moves slices within their own plane only, so a slice is shifted and never mixed with another; uneven
steps mix two neighbouring slices. Nothing is extrapolated: outside the slices' field of view lies the
lowest value of the whole volume (air on CT and MR alike), never an invented one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.io.dicom.scan import Frame

Planes = NDArray[np.float32]


def resample(planes_KJI: NDArray[Any], frames: Sequence[Frame], geometry: Geometry) -> Planes:
    """Interpolate slices onto a grid that shares their directions and pixel spacing.

    Args:
        planes_KJI: (slices, rows, columns) in ascending order.
        frames: Where each slice lies.
        geometry: (I, J, K) target, parallel to the slices.

    Returns:
        (K, J, I) float32.
    """
    fill = float(planes_KJI.min())
    to_index = np.linalg.inv(geometry.affine)
    corners = np.array([to_index @ frame.plane[:, 3] for frame in frames])  # (n, 4) index of first pixels
    i_out, j_out, k_out = geometry.shape
    result = np.empty((k_out, j_out, i_out), np.float32)
    for k in range(k_out):
        after = min(max(int(np.searchsorted(corners[:, 2], k - 1e-6)), 0), len(frames) - 1)
        before = max(after - 1, 0)
        span = corners[after, 2] - corners[before, 2]
        weight = float((k - corners[before, 2]) / span) if span > 0 else 1.0
        weight = min(max(weight, 0.0), 1.0)
        result[k] = 0
        for index, share in ((before, 1 - weight), (after, weight)):
            if share > 1e-4:  # a slice that lies on the grid is taken as it is
                share = 1.0 if share > 1 - 1e-4 else share
                result[k] += share * _shift(planes_KJI[index], corners[index, :2], (i_out, j_out), fill)
    return result


def _shift(
    plane_JI: NDArray[Any], first: NDArray[np.float64], size: tuple[int, int], fill: float
) -> NDArray[np.float64]:
    """Return a plane whose first pixel lies at index `first` = (i, j) of a plane of `size` = (I, J)."""
    moved = _interpolate(plane_JI.astype(np.float64), -float(first[0]), size[0], fill)
    return _interpolate(moved.T, -float(first[1]), size[1], fill).T


def _interpolate(lines: NDArray[np.float64], offset: float, count: int, fill: float) -> NDArray[np.float64]:
    """Sample lines (..., N) at offset, offset + 1, ...; `fill` where that is outside."""
    n = lines.shape[-1]
    at = offset + np.arange(count)
    nearest = np.rint(at)
    at = np.where(np.abs(at - nearest) < 1e-4, nearest, at)
    low = np.clip(np.floor(at).astype(int), 0, n - 1)
    high = np.clip(low + 1, 0, n - 1)
    weight = at - low
    values = lines[..., low] * (1 - weight) + lines[..., high] * weight
    values[..., (at < 0) | (at > n - 1)] = fill
    return np.asarray(values)
