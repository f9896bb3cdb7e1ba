"""Soft overlap of prediction and label: the sums that Dice and its relatives are ratios of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.losses.ranks import divide_sums, sum_ranks
from medseg.losses.voxels import Voxels, weigh_classes


class Overlap(NamedTuple):
    """Sums over voxels, of one structure or (B, C) of many.

    Args:
        shared: sum p g: what prediction and label have in common.
        predicted: sum p.
        size: sum g.
    """

    shared: Tensor
    predicted: Tensor
    size: Tensor


def soft_dice(probabilities: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """Return (2 sum p g + s) / (sum p + sum g + s) over the last axis.

    Milletari et al. 2016 with plain instead of squared sums in the denominator, as in nnU-Net
    (Isensee et al. 2021). A structure that is neither there nor predicted has Dice 1.

    Args:
        probabilities: (..., N) in 0..1.
        target: (..., N) bool.
        smooth: s, in voxels.
    """
    return dice_of(measure_overlap(probabilities, target), smooth)


def measure_overlap(probabilities: Tensor, target: Tensor) -> Overlap:
    """Return the three sums over the last axis."""
    return Overlap((probabilities * target).sum(-1), probabilities.sum(-1), target.sum(-1))


def dice_of(overlap: Overlap, smooth: float) -> Tensor:
    """Return the Dice of sums; see `soft_dice`."""
    return (2 * overlap.shared + smooth) / (overlap.predicted + overlap.size + smooth)


def overlap_classes(voxels: Voxels, *, include_background: bool, pooled: bool) -> Overlap:
    """Return (B, C) sums for every class, without background unless it is to be included.

    `pooled` makes them (1, C) sums over the global batch. Class by class, so that no one-hot label is made.
    """
    first = 0 if include_background else 1
    p_CBN = voxels.log_p[:, first:].exp().unbind(1)
    pairs = ((p_BN * voxels.valid, (voxels.label == c) & voxels.valid) for c, p_BN in enumerate(p_CBN, first))
    sums = zip(*(measure_overlap(p_BN, target_BN) for p_BN, target_BN in pairs))
    return Overlap(*(pool(torch.stack(sums_CB, 1), pooled) for sums_CB in sums))


def pool(sums_BC: Tensor, pooled: bool) -> Tensor:
    """Return per-sample sums as they are, or as one row over the samples of all ranks."""
    return sum_ranks(sums_BC.sum(0, keepdim=True)) if pooled else sums_BC


def average_classes(
    loss_BC: Tensor, voxels: Voxels, class_weights: Sequence[float] | None, *, pooled: bool
) -> Tensor:
    """Return the weighted mean over classes, then the mean over samples that have a valid voxel.

    Args:
        loss_BC: Of the last C classes; (1, C) if `pooled`.
        voxels: The batch.
        class_weights: Of all classes, background first.
        pooled: Whether the losses are already those of the global batch.
    """
    weight_C = weigh_classes(class_weights, voxels.log_p)[-loss_BC.shape[1] :]
    loss_B = (loss_BC * weight_C).sum(1) / weight_C.sum().clamp_min(torch.finfo(weight_C.dtype).tiny)
    present_B = pool(voxels.valid.any(1).to(loss_B.dtype), pooled).clamp_max(1)
    return divide_sums((loss_B * present_B).sum(), present_B.sum())


def require_smooth(smooth: float) -> None:
    """Raise ConfigError (`SMOOTH`) unless the number is above 0."""
    if smooth <= 0:
        raise ConfigError(f"smooth is {smooth}", hint="give a number above 0, such as 1e-5", code="SMOOTH")
