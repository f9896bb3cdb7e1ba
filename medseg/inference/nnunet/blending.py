"""How nnU-Net weighs the windows that cover a voxel."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

# Its weights are float16 with 10 in the middle; where they vanish, the smallest that does not stands in:
# the least number above 0, 2^-24, over 10.
FLOOR = 2.0**-24 / 10


@lru_cache(maxsize=4)
def blend_weights(patch: tuple[int, int, int]) -> Tensor:
    """Return (*patch) float32 weights, 1 at voxel `edge // 2` (nnunetv2, `compute_gaussian`).

    Sigma is an eighth of the edge. The middle of an even edge lies half a voxel before that voxel; where
    windows overlap, that half voxel shifts the balance by up to a half.
    """
    weights = torch.ones(patch, dtype=torch.float64)
    for axis, edge in enumerate(patch):
        if edge > 1:
            offset = torch.arange(edge, dtype=torch.float64) - edge // 2
            view = [edge if other == axis else 1 for other in range(3)]
            weights = weights * torch.exp(-0.5 * (offset / (edge / 8)) ** 2).view(view)
    return weights.clamp_min(FLOOR).float()
