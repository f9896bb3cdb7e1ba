"""The nearest point of another surface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def measure_distances(
    start: NDArray[np.bool_], end: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> NDArray[np.float64]:
    """Return (N,) distances in mm from each point of `start` to the nearest of `end`, in storage order.

    Rounded to a nanometre; infinite where `end` is empty.

    Args:
        start: (I, J, K), N points.
        end: (I, J, K).
        spacing_mm: (3,).
    """
    # A KD-tree on boundary points beats a distance transform of the box (5-15 times on organs) until
    # the boundary is about a fifth of all voxels, which is noise. Shared points need no query.
    from scipy.spatial import cKDTree

    is_apart = ~end[start]
    distances = np.zeros(is_apart.size)
    if not end.any():
        return np.full_like(distances, np.inf)
    if is_apart.any():
        tree = cKDTree(np.argwhere(end) * np.asarray(spacing_mm), balanced_tree=False, compact_nodes=False)
        points = np.argwhere(start & ~end) * np.asarray(spacing_mm)
        distances[is_apart] = np.round(tree.query(points)[0], 6)
    return distances
