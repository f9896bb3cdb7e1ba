"""Soft Dice loss of softmax probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.losses.voxels import Voxels, compare, weigh_classes


def dice(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    include_background: bool = False,
    smooth: float = 1e-5,
) -> Tensor:
    """Return 1 - the mean soft Dice of the classes.

    Milletari et al. 2016 with plain instead of squared sums in the denominator, as in nnU-Net
    (Isensee et al. 2021): (2 sum p g + s) / (sum p + sum g + s), s = `smooth`. A class that is neither
    present nor predicted has Dice 1. Samples without a valid voxel do not enter the mean.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background; weights of the mean over classes.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: Take one Dice over the whole batch instead of one per sample: steadier where small
            structures are absent from many patches.
        include_background: Let class 0 enter the mean.
        smooth: Added to numerator and denominator, in voxels; above 0.
    """
    voxels = compare(logits_BC, label_B, ignore_index)
    return average_dice(
        voxels,
        class_weights=class_weights,
        batch_dice=batch_dice,
        include_background=include_background,
        smooth=smooth,
    )


def average_dice(
    voxels: Voxels,
    *,
    class_weights: Sequence[float] | None,
    batch_dice: bool,
    include_background: bool,
    smooth: float,
) -> Tensor:
    """Return the Dice loss of voxels that were compared already; options as in `dice`."""
    if smooth <= 0:
        raise ConfigError(f"smooth is {smooth}", hint="give a number above 0, such as 1e-5", code="SMOOTH")
    first = 0 if include_background else 1
    weight_C = weigh_classes(class_weights, voxels.log_p)[first:]
    overlap_BC, total_BC = _sum_overlap(voxels, first)
    present_B = voxels.valid.any(1)
    if batch_dice:
        overlap_BC, total_BC = overlap_BC.sum(0, keepdim=True), total_BC.sum(0, keepdim=True)
        present_B = present_B.any(0, keepdim=True)
    loss_BC = 1 - (2 * overlap_BC + smooth) / (total_BC + smooth)
    loss_B = (loss_BC * weight_C).sum(1) / weight_C.sum().clamp_min(torch.finfo(weight_C.dtype).tiny)
    return (loss_B * present_B).sum() / present_B.sum().clamp_min(1)


def _sum_overlap(voxels: Voxels, first: int) -> tuple[Tensor, Tensor]:
    """Return sum p g and sum p + sum g per sample and class from `first`, without a one-hot label.

    Only the true class's probability meets a label of 1, so the overlap is a sum of one number per
    voxel, sorted by class.
    """
    predicted_BC = (voxels.log_p[:, first:].exp() * voxels.valid[:, None]).sum(2)
    true_BN = (-voxels.nll).exp()
    classes = range(first, voxels.log_p.shape[1])
    masks = [(voxels.label == c) & voxels.valid for c in classes]
    overlap_BC = torch.stack([(true_BN * mask_BN).sum(1) for mask_BN in masks], 1)
    size_BC = torch.stack([mask_BN.sum(1) for mask_BN in masks], 1)
    return overlap_BC, predicted_BC + size_BC
