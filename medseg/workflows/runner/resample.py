"""Intensities and voxel sizes, as the network was trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def spline_matrix(n_in: int, n_out: int, order: int) -> Array:
    """Return the (n_out, n_in) operator that resamples one axis, edge to edge; order 0, 1 or 3.

    A cubic spline through the samples has coefficients c with (c[n-1] + 4 c[n] + c[n+1]) / 6 = sample n; with
    the last sample repeated twelve times at either end, what lies beyond does not matter.
    """
    at = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    matrix, rows = np.zeros((n_out, n_in)), np.arange(n_out)
    if order == 3:
        pad, n = 12, n_in + 24
        system = (4 * np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)) / 6
        system[0, 1] = system[-1, -2] = 2 / 6
        samples = np.eye(n_in)[np.clip(np.arange(-pad, n_in + pad), 0, n_in - 1)]
        coefficients = np.linalg.solve(system, samples)
        first = np.floor(at).astype(int)
        t = at - first
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (1 - t) ** 3 - 6 * (1 - t) ** 2 + 4, t**3)
        for offset, weight in enumerate(weights):
            matrix += weight[:, None] / 6 * coefficients[first + offset - 1 + pad]
        matrix[np.abs(matrix) < 1e-8] = 0
        return matrix.astype(np.float32)
    at = np.clip(at, 0, n_in - 1)
    low = np.floor(at + 0.5 * (order == 0)).astype(int)
    share = (at - low) * (order == 1)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, np.minimum(low + 1, n_in - 1)), share)
    return matrix.astype(np.float32)


def choose_orders(pipeline: Any, spacing: Sequence[float], target: Sequence[float], order: int) -> list[int]:
    """Return an order per axis: nearest neighbour across one that is much coarser than the finest."""
    for mm in (spacing, target):
        if max(mm) / min(mm) > pipeline["resampling"]["anisotropy"]:
            coarse = [step == max(mm) for step in mm]
            return [0 if is_coarse and sum(coarse) == 1 else order for is_coarse in coarse]
    return [order] * 3


def resample(array_IJK: Array, shape: Sequence[int], orders: Sequence[int], *, clips: bool = False) -> Array:
    """Return float32 voxels on `shape`, or inside the input's range: per slice across axes of order 0."""
    out = array_IJK.astype(np.float32)
    axes = tuple(axis for axis in range(3) if orders[axis] > 0)
    low, high = out.min(axes, keepdims=True), out.max(axes, keepdims=True)
    if out.shape == tuple(shape):
        return out
    for axis in range(3):
        if array_IJK.shape[axis] != shape[axis]:
            matrix = spline_matrix(array_IJK.shape[axis], shape[axis], orders[axis])
            out = np.moveaxis(np.tensordot(matrix, out, (1, axis)), 0, axis)
            if orders[axis] == 0:
                low, high = low.take(matrix.argmax(1), axis), high.take(matrix.argmax(1), axis)
    return np.clip(out, low, high) if clips else out


def normalize(channel_IJK: Array, step: Any) -> Array:
    """Clip, shift and scale; null stands for the scan's own mean or standard deviation."""
    out = channel_IJK.astype(np.float32)
    if step["low"] is not None or step["high"] is not None:
        out = np.clip(out, step["low"], step["high"]).astype(np.float32)
    out -= np.float32(out.mean(dtype=np.float64) if step["shift"] is None else step["shift"])
    scale = np.sqrt(np.mean(np.square(out), dtype=np.float64)) if step["scale"] is None else step["scale"]
    return out / np.float32(max(float(scale), 1e-8))
