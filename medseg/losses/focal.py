"""Focal loss of softmax probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.losses.cross_entropy import require_smoothing
from medseg.losses.voxels import Voxels, average_voxels, compare


def focal(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean of -(1 - p)^gamma log p over voxels, p of the true class.

    Lin et al. 2017, eq. 4; with `gamma` = 0 it is the cross-entropy.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background; alpha of eq. 5, normalised by their sum over voxels.
        ignore_index: Label of voxels that count for nothing.
        gamma: How much less a voxel counts that is already right; >= 0.
        label_smoothing: Share e of each label that is spread evenly over all classes: (1 - e) x the true
            class's term + e x the mean of all classes' terms.
    """
    voxels = compare(logits_BC, label_B, ignore_index)
    return average_focal(voxels, class_weights=class_weights, gamma=gamma, label_smoothing=label_smoothing)


def average_focal(
    voxels: Voxels, *, class_weights: Sequence[float] | None, gamma: float, label_smoothing: float = 0.0
) -> Tensor:
    """Return the focal loss of voxels that were compared already; options as in `focal`."""
    require_smoothing(label_smoothing)
    loss_BN = _focus(voxels.nll, gamma)
    if label_smoothing:
        even_BN = torch.where(voxels.valid, _focus(-voxels.log_p, gamma).mean(1), 0)
        loss_BN = (1 - label_smoothing) * loss_BN + label_smoothing * even_BN
    return average_voxels(loss_BN, voxels, class_weights)


def _focus(nll: Tensor, gamma: float) -> Tensor:
    """Return (1 - p)^gamma x -log p of -log p."""
    # expm1 keeps 1 - p exact near p = 1; the floor keeps the slope of a power below 1 finite at 0.
    wrong = (-torch.expm1(-nll)).clamp_min(1e-7)
    return wrong**gamma * nll
