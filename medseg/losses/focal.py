"""Focal loss of softmax probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.losses.voxels import Voxels, average_voxels, compare


def focal(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    gamma: float = 2.0,
) -> Tensor:
    """Return the mean of -(1 - p)^gamma log p over voxels, p of the true class.

    Lin et al. 2017, eq. 4; with `gamma` = 0 it is the cross-entropy.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background; alpha of eq. 5, normalised by their sum over voxels.
        ignore_index: Label of voxels that count for nothing.
        gamma: How much less a voxel counts that is already right; >= 0.
    """
    return average_focal(compare(logits_BC, label_B, ignore_index), class_weights=class_weights, gamma=gamma)


def average_focal(voxels: Voxels, *, class_weights: Sequence[float] | None, gamma: float) -> Tensor:
    """Return the focal loss of voxels that were compared already; options as in `focal`."""
    # expm1 keeps 1 - p exact near p = 1; the floor keeps the slope of a power below 1 finite at 0.
    wrong_BN = (-torch.expm1(-voxels.nll)).clamp_min(1e-7)
    return average_voxels(wrong_BN**gamma * voxels.nll, voxels, class_weights)
