"""Bring a part of an image to a grid of any size: one small dense matrix per axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Span = tuple[float, float]
"""First and last edge of an interval along an axis, in voxels of the scan: [0, n] is all of n voxels."""

SLAB = 8  # slices read at once: the memory of a large CT is that of a few of its slices


def weigh_axis(n: int, held: Span, shown: Span, m: int) -> NDArray[np.float32]:
    """Return the (m, n) matrix that takes n samples to m: linear, wider where outputs are larger.

    A triangle as wide as two output voxels leaves no aliases that one sees ("bilinear" of Pillow's `resize`);
    where samples and outputs lie at the same places it is the identity. A row of zeros lies outside what is
    held.

    Args:
        n: Samples along the axis.
        held: Where they lie.
        shown: Where the outputs lie.
        m: Outputs along the axis.
    """
    centres = shown[0] + (np.arange(m) + 0.5) * (shown[1] - shown[0]) / m
    scale = n / (held[1] - held[0])
    place = np.clip((centres - held[0]) * scale - 0.5, 0, n - 1)
    width = max(1.0, scale * (shown[1] - shown[0]) / m)
    weights = np.maximum(0.0, 1 - np.abs(np.arange(n) - place[:, None]) / width)
    weights /= weights.sum(axis=1, keepdims=True)
    weights[(centres < held[0]) | (centres > held[1])] = 0
    return weights.astype(np.float32)


def sample_image(channel_IJK: Any, weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return one channel on the shown grid; what is not held is as dark as the darkest that is.

    Args:
        channel_IJK: Read slab by slab; any array that can be sliced.
        weights: (m, n) per axis.
    """
    used = [_find_used(matrix) for matrix in weights]
    along_i, along_j, along_k = (matrix[:, span] for matrix, span in zip(weights, used, strict=True))
    depth = along_k.shape[1]
    planes = np.empty((len(along_i), len(along_j), depth), np.float32)
    for first in range(0, depth, SLAB):
        last = min(first + SLAB, depth)
        slab = slice(used[2].start + first, used[2].start + last)
        block = np.asarray(channel_IJK[used[0], used[1], slab]).astype(np.float32)
        planes[..., first:last] = along_j @ np.tensordot(along_i, block, axes=(1, 0))
    found: NDArray[np.float32] = planes @ along_k.T
    inside = np.ix_(*(matrix.any(axis=1) for matrix in weights))
    if found[inside].size < found.size:
        dark = found[inside].min() if found[inside].size else 0.0
        outside = np.ones(found.shape, bool)
        outside[inside] = False
        found[outside] = dark
    return found


def sample_labels(labels_IJK: NDArray[Any], shown: Sequence[Span], shape: Sequence[int]) -> NDArray[Any]:
    """Return the label at the centre of each output voxel: none is made up."""
    for axis, ((first, last), m) in enumerate(zip(shown, shape, strict=True)):
        centres = first + (np.arange(m) + 0.5) * (last - first) / m
        labels_IJK = labels_IJK.take(np.floor(centres).astype(int), axis=axis)
    return labels_IJK


def _find_used(matrix: NDArray[np.float32]) -> slice:
    columns = np.flatnonzero(matrix.any(axis=0))
    return slice(int(columns[0]), int(columns[-1]) + 1) if columns.size else slice(0, 1)
