"""Which windows of an image a network looks at, decided before it looks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

Window = tuple[slice, slice, slice]


def place_windows(shape: Sequence[int], patch: Sequence[int], overlap: float) -> list[Window]:
    """Cover a grid with equal windows that overlap by at least `overlap` of their edge.

    Windows are spread evenly, so the last one of a row is no smaller and no closer than the others.

    Args:
        shape: (3,) voxels, each at least the patch's.
        patch: (3,) voxels.
        overlap: Share of the edge, 0 <= overlap < 1.
    """
    starts = []
    for size, edge in zip(shape, patch, strict=True):
        step = max(1, int(edge * (1 - overlap)))
        count = -(-(size - edge) // step) + 1
        starts.append(np.linspace(0, size - edge, count).round().astype(int).tolist())
    spans = [[slice(start, start + edge) for start in row] for row, edge in zip(starts, patch, strict=True)]
    return [(i, j, k) for i, j, k in product(*spans)]


@lru_cache(maxsize=4)
def gaussian_weights(patch: tuple[int, int, int]) -> Tensor:
    """Return (*patch) float32 weights, 1 in the middle.

    Sigma is an eighth of the edge (Isensee et al. 2021, suppl. note 2); the floor keeps corners that
    a single window covers from being divided by almost nothing.
    """
    weights = torch.ones(patch)
    for axis, edge in enumerate(patch):
        if edge > 1:
            offset = torch.arange(edge, dtype=torch.float32) - (edge - 1) / 2
            view = [edge if other == axis else 1 for other in range(3)]
            weights = weights * torch.exp(-0.5 * (offset / (edge / 8)) ** 2).view(view)
    return weights.clamp_min(1e-4)
