"""Bring images, label maps and class scores onto a grid with another number of voxels.

B-spline interpolation along one axis is linear in the samples, so prefilter and interpolation
together are one (n_out, n_in) matrix: a volume is resampled by one matrix product per axis. The
matrices are those of `scipy.ndimage.zoom(mode="nearest", grid_mode=True)`, which is what
`skimage.transform.resize(mode="edge", anti_aliasing=False)` and with it nnU-Net computes; the field
of view stays the same, edge to edge (see `Geometry.resample`).

Shape legend: C channels or classes, (I, J, K) voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import ConfigError, GeometryError

Float = NDArray[np.float32]
Orders = tuple[int, int, int]
Step = tuple[int, Float]  # an axis of a channel and the matrix that resamples it

ANISOTROPY = 3.0  # nnU-Net's ANISO_THRESHOLD: above it an axis is too coarse to interpolate across
NEGLIGIBLE = 1e-8  # weights below are dropped: the cubic prefilter decays as 0.268^n (Unser 1999, eq. 12)
ROWS = 16  # rows of a matrix multiplied at once; they share one run of non-zero columns
PRODUCT = 1 << 18  # multiplications at once: fits the cache, and above it OpenBLAS starts threads, a net loss
SLAB_VOXELS = 1 << 22  # voxels converted to float32 at once
TILE = 32  # edge of what is decided at once for labels: small enough to lie inside one organ, mostly
TIE = 1e-5  # label weights closer than this are equal: float32 rounding must not decide


@lru_cache(maxsize=64)
def spline_matrix(n_in: int, n_out: int, order: int) -> Float:
    """Return the linear operator that resamples one axis.

    Args:
        n_in: Samples on the axis.
        n_out: Samples wanted over the same extent.
        order: 0 nearest, 1 linear, 3 cubic B-spline.

    Returns:
        (n_out, n_in), read-only; each row sums to 1.
    """
    from scipy import ndimage  # a third of a second to import, and many cohorts need no resampling

    if order not in (0, 1, 3):
        raise ConfigError(f"interpolation order {order} is not 0, 1 or 3", code="RESAMPLE_ORDER")
    if min(n_in, n_out) < 1:
        raise GeometryError(f"cannot resample an axis of {n_in} samples to {n_out}", code="RESAMPLE_SHAPE")
    positions = ((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5)[np.newaxis]
    checked: Any = order  # scipy's types want a literal
    responses = [
        ndimage.map_coordinates(unit, positions, order=checked, mode="nearest") for unit in np.eye(n_in)
    ]
    matrix = np.stack(responses, axis=1)
    matrix[np.abs(matrix) < NEGLIGIBLE] = 0
    rounded = matrix.astype(np.float32)
    rounded.setflags(write=False)
    return rounded


def choose_orders(spacing_mm: Sequence[float], target_mm: Sequence[float], *, order: int = 3) -> Orders:
    """Return the interpolation order of each axis by nnU-Net's rule for anisotropic scans.

    Where the coarsest axis, of the scan or else of the target, is alone and more than three times
    as coarse as the finest, slices are resampled in their plane and picked by nearest neighbour
    across it; everywhere else all axes use `order` (nnunetv2, `determine_do_sep_z_and_axis`).

    Args:
        spacing_mm: (3,) spacing of the scan.
        target_mm: (3,) spacing wanted.
        order: 3 for images, 1 for labels and scores.
    """
    for spacing in (spacing_mm, target_mm):
        if max(spacing) / min(spacing) > ANISOTROPY:
            coarse = [s == max(spacing) for s in spacing]
            i, j, k = (0 if is_coarse and sum(coarse) == 1 else order for is_coarse in coarse)
            return i, j, k
    return order, order, order


def resample_image(
    array_CIJK: NDArray[Any], shape_out: Sequence[int], *, orders: Orders = (3, 3, 3)
) -> Float:
    """Resample every channel, kept inside its input's range.

    The range is that of the channel or, where an axis has order 0, that of each slice across it, as
    in nnU-Net. The volume is never converted as a whole: slabs are, one after the other.

    Args:
        array_CIJK: (C, I, J, K), any real type; NaN spreads as in any spline filter.
        shape_out: (3,) voxels wanted.
        orders: Interpolation order of each axis, see `choose_orders`.

    Returns:
        (C, *shape_out) float32.
    """
    steps = _plan(array_CIJK.shape[1:], shape_out, orders)
    out_CIJK = np.empty((len(array_CIJK), *shape_out), np.float32)
    for channel_IJK, out_IJK in zip(array_CIJK, out_CIJK, strict=True):
        _resample_channel(channel_IJK, out_IJK, steps)
        np.clip(out_IJK, *_range(channel_IJK, steps, orders), out=out_IJK)
    return out_CIJK


def resample_labels(
    labels_IJK: NDArray[Any], shape_out: Sequence[int], *, orders: Orders = (1, 1, 1)
) -> NDArray[Any]:
    """Resample a label map: at each new voxel the label with the largest interpolated weight.

    Works tile by tile, one label after the other, so no one-hot volume is built; a tile that sees a
    single label, as most do, is filled with it. No value is invented; equal weights go to the lower.

    Args:
        labels_IJK: (I, J, K) integers, any values.
        shape_out: (3,) voxels wanted.
        orders: 1 for linear weights; 0 across an axis that is too coarse, see `choose_orders`.

    Returns:
        (*shape_out) of the same type.
    """
    steps = _plan(labels_IJK.shape, shape_out, orders)
    out_IJK = np.empty(tuple(shape_out), labels_IJK.dtype)
    for corner in product(*(range(0, n, TILE) for n in shape_out)):
        tile = tuple(slice(start, start + TILE) for start in corner)
        seen = list(tile)
        for axis, matrix in steps:
            seen[axis] = _columns(matrix[tile[axis]])
        parts = [(axis, matrix[tile[axis], seen[axis]]) for axis, matrix in steps]
        out_IJK[tile] = _vote(labels_IJK[tuple(seen)], parts, out_IJK[tile].shape)
    return out_IJK


def argmax_resampled(
    scores_CIJK: NDArray[Any], shape_out: Sequence[int], *, orders: Orders = (1, 1, 1)
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the class with the highest resampled score, without ever holding all resampled scores.

    Args:
        scores_CIJK: (C, I, J, K), any real type.
        shape_out: (3,) voxels wanted.
        orders: Interpolation order of each axis, see `choose_orders`.

    Returns:
        (*shape_out) class indices, uint8 up to 256 classes; equal scores go to the lower class.
    """
    steps = _plan(scores_CIJK.shape[1:], shape_out, orders)
    inner = [step for step in steps if step[0] != 0]
    outer = next((matrix for axis, matrix in steps if axis == 0), np.eye(shape_out[0], dtype=np.float32))
    labels_IJK = np.zeros(tuple(shape_out), np.uint8 if len(scores_CIJK) <= 256 else np.uint16)
    thickness = max(1, SLAB_VOXELS // prod(shape_out[1:]))
    for start in range(0, shape_out[0], thickness):
        rows = outer[start : start + thickness]
        columns = _columns(rows)
        best_IJK = np.full((len(rows), *shape_out[1:]), -np.inf, np.float32)
        for index, score_IJK in enumerate(scores_CIJK):
            score = _multiply(rows[:, columns], score_IJK[columns].astype(np.float32), 0)
            for axis, matrix in inner:
                score = _multiply(matrix, score, axis)
            wins = score > best_IJK
            labels_IJK[start : start + thickness][wins] = index
            np.copyto(best_IJK, score, where=wins)
    return labels_IJK


def _plan(shape_in: Sequence[int], shape_out: Sequence[int], orders: Orders) -> list[Step]:
    """Return the axes to resample, in the sequence that costs the fewest multiplications."""
    changed = [axis for axis in range(3) if shape_in[axis] != shape_out[axis]]
    matrices = {axis: spline_matrix(shape_in[axis], shape_out[axis], orders[axis]) for axis in changed}

    def cost(sequence: tuple[int, ...]) -> int:
        shape, total = list(shape_in), 0
        for axis in sequence:
            total += int(np.count_nonzero(matrices[axis])) * prod(shape) // shape[axis]
            shape[axis] = shape_out[axis]
        return total

    return [(axis, matrices[axis]) for axis in min(permutations(changed), key=cost)]


def _resample_channel(channel_IJK: NDArray[Any], out_IJK: Float, steps: list[Step]) -> None:
    if not steps:
        out_IJK[...] = channel_IJK
        return
    *early, (last, matrix) = steps
    out_IJK[...] = 0
    n = channel_IJK.shape[last]
    thickness = max(16, SLAB_VOXELS * n // channel_IJK.size)
    for start in range(0, n, thickness):
        part = slice(start, start + thickness)
        rows = _rows(matrix[:, part])
        if rows.stop == 0:
            continue  # no new voxel looks at this slab
        slab = np.ascontiguousarray(channel_IJK[_along(last, part)], dtype=np.float32)
        for axis, early_matrix in early:
            slab = _multiply(early_matrix, slab, axis)
        out_IJK[_along(last, rows)] += _multiply(matrix[rows, part], slab, last)


def _multiply(matrix: Float, array_IJK: Float, axis: int) -> Float:
    """Apply a banded matrix along an axis; a block of rows reads only the columns that it weighs."""
    shape = array_IJK.shape
    after = prod(shape[axis + 1 :])
    source = array_IJK.reshape(-1, shape[axis], after)
    result = np.empty((len(source), len(matrix), after), np.float32)
    blocks = [slice(start, start + ROWS) for start in range(0, len(matrix), ROWS)]
    bands = [
        (rows, columns, matrix[rows, columns]) for rows in blocks for columns in [_columns(matrix[rows])]
    ]
    step = max(1, PRODUCT // max(1, *(block.size for _, _, block in bands)))
    if after == 1:  # one product for many lines instead of a matrix-vector product per line
        for start in range(0, len(source), step):
            lines, target = source[start : start + step, :, 0], result[start : start + step, :, 0]
            for rows, columns, block in bands:
                np.matmul(lines[:, columns], block.T, out=target[:, rows])
    else:
        for start in range(0, after, step):
            part, target = source[:, :, start : start + step], result[:, :, start : start + step]
            for rows, columns, block in bands:
                np.matmul(block, part[:, columns], out=target[:, rows])
    return result.reshape(*shape[:axis], len(matrix), *shape[axis + 1 :])


def _range(channel_IJK: NDArray[Any], steps: list[Step], orders: Orders) -> tuple[Float, Float]:
    """Return lowest and highest value, per resampled slice across axes of order 0."""
    axes = tuple(axis for axis in range(3) if orders[axis] > 0)
    low, high = (reduce(channel_IJK, axis=axes, keepdims=True) for reduce in (np.min, np.max))
    for axis, matrix in steps:
        if orders[axis] == 0:
            nearest = matrix.argmax(axis=1)
            low, high = low.take(nearest, axis), high.take(nearest, axis)
    return low.astype(np.float32), high.astype(np.float32)


def _vote(labels_IJK: NDArray[Any], parts: list[Step], shape: Sequence[int]) -> NDArray[Any]:
    """Return the label with the largest weight at each voxel of a tile."""
    if labels_IJK.min() == labels_IJK.max():
        return labels_IJK[:1, :1, :1]
    winner_IJK = np.zeros(tuple(shape), labels_IJK.dtype)
    best_IJK = np.zeros(tuple(shape), np.float32)
    for value in np.unique(labels_IJK):
        weight = (labels_IJK == value).astype(np.float32)
        for axis, matrix in parts:
            weight = _multiply(matrix, weight, axis)
        wins = weight > best_IJK + TIE
        winner_IJK[wins] = value
        np.copyto(best_IJK, weight, where=wins)
    return winner_IJK


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, part)


def _rows(matrix: Float) -> slice:
    """Return the run of rows from the first to the last with a weight."""
    used = np.flatnonzero(np.any(matrix, axis=1))
    return slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0)


def _columns(matrix: Float) -> slice:
    return _rows(matrix.T)
