"""Which neighbours a voxel is compared with, decided from the grid alone.

A Gaussian kernel is cut off at a distance in millimetres, so what is left is a finite list of offsets, which
is used as it stands: the window is the kernel, not an approximation of it. Weights of an offset and of its
opposite are equal; a kernel's weights sum to its own, so that strength does not depend on the voxel size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry

COARSER = 1.1  # factor from one lattice that is tried to the next


@dataclass(frozen=True)
class Kernel:
    """A Gaussian of position.

    Args:
        weight: Sum over the window, >= 0.
        sigma_mm: Standard deviation, > 0.
    """

    weight: float
    sigma_mm: float


@dataclass(frozen=True, eq=False)
class Window:
    """The neighbours of a voxel.

    Args:
        offsets: (N, 3) voxels; never (0, 0, 0), and each with its opposite.
        weights: For each kernel (N,) the weight of each neighbour.
    """

    offsets: NDArray[np.int64]
    weights: tuple[NDArray[np.float64], ...]


def make_window(
    geometry: Geometry, kernels: Sequence[Kernel], truncate: float, max_neighbours: int
) -> Window:
    """Return the neighbours of all kernels, and what each kernel gives them.

    Args:
        geometry: Of the image; an axis of one voxel has no neighbours.
        kernels: One of weight 0 has no neighbours.
        truncate: A kernel ends at so many sigma; where the next voxel is farther, it has no neighbours.
        max_neighbours: Per kernel; see `list_offsets`.
    """
    found: dict[tuple[int, ...], int] = {}
    parts = []
    for kernel in kernels:
        reach_mm = truncate * kernel.sigma_mm if kernel.weight else 0.0
        offsets = list_offsets(geometry, reach_mm, max_neighbours)
        squares = np.square(offsets * geometry.spacing_mm).sum(axis=1)
        values = np.exp(-squares / (2 * kernel.sigma_mm**2))
        rows = [found.setdefault(tuple(offset), len(found)) for offset in offsets.tolist()]
        parts.append((rows, kernel.weight * values / values.sum() if rows else values))
    weights = [np.zeros(len(found)) for _ in kernels]
    for target, (rows, values) in zip(weights, parts, strict=True):
        target[rows] = values
    return Window(np.array([*found], dtype=np.int64).reshape(-1, 3), tuple(weights))


def list_offsets(geometry: Geometry, reach_mm: float, max_neighbours: int) -> NDArray[np.int64]:
    """Return (N, 3) offsets of at most `reach_mm`, without (0, 0, 0), in one order on every machine.

    Where these are more than `max_neighbours`, only every n-th voxel per axis is taken, n voxels being about
    as long on each axis, and the nearest voxels along the axes, so that neighbours stay coupled.
    """
    spacing = np.array(geometry.spacing_mm)
    # An image holds no offset longer than itself; 1e-9: 3 * 0.1 mm lie within 0.3 mm.
    reach = np.minimum(np.floor(reach_mm / spacing * (1 + 1e-9)), np.array(geometry.shape) - 1).astype(
        np.int64
    )
    step_mm = float(spacing.min())
    while True:
        stride = np.maximum(np.round(step_mm / spacing), 1).astype(np.int64)
        counts = reach // stride
        # A ball fills more than half of its box, so that no list is made that is much too long.
        if np.prod(2.0 * counts + 1) <= 4 * max_neighbours:
            offsets = _list_ball(counts, stride, spacing, reach_mm)
            if len(offsets) <= max_neighbours:
                break
        step_mm *= COARSER
    near = [sign * row for row, long in zip(np.eye(3, dtype=np.int64), reach) for sign in (1, -1) if long]
    return np.unique(np.concatenate([offsets, np.array(near, dtype=np.int64).reshape(-1, 3)]), axis=0)


def _list_ball(
    counts: NDArray[np.int64], stride: NDArray[np.int64], spacing: NDArray[np.float64], reach_mm: float
) -> NDArray[np.int64]:
    axes = [step * np.arange(-count, count + 1) for count, step in zip(counts, stride)]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    squares = np.square(offsets * spacing).sum(axis=1)
    return np.asarray(offsets[(squares > 0) & (squares <= (reach_mm * (1 + 1e-9)) ** 2)])
