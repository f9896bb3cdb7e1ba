"""Dice plus cross-entropy of every lesion on its own: the smallest counts as much as the largest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.losses.cross_entropy import smooth_nll
from medseg.losses.dice import average_dice
from medseg.losses.distances import nearest_components
from medseg.losses.overlap import Overlap, dice_of
from medseg.losses.ranks import divide_sums
from medseg.losses.voxels import average_voxels, compare, foreground, weigh_classes, weigh_voxels


def component_dice_ce(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    smooth: float = 1e-5,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    component_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return `dice_ce` + `component_weight` x the mean of Dice + cross-entropy over reference components.

    CC-DiceCE (Bouteille et al. 2025, arXiv:2511.17146): each connected component of a foreground class owns
    the voxels that are nearer to it than to any other of its class, and is scored there alone. The term over
    the whole patch is what false positives in patches without a component cost.

    Args:
        logits_BC: (B, C, *spatial), 2D or 3D.
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background; a component weighs as its class.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: One Dice over the whole batch, in the term over the whole patch.
        smooth: Of both Dice terms, in voxels.
        dice_weight: Factor of Dice in both terms.
        ce_weight: Factor of the cross-entropy in both terms.
        component_weight: Factor of the mean over components.
        label_smoothing: Of the cross-entropy.
    """
    voxels = compare(logits_BC, label_B, ignore_index)
    dice = average_dice(
        voxels, class_weights=class_weights, batch_dice=batch_dice, include_background=False, smooth=smooth
    )
    nll_BN = smooth_nll(voxels, label_smoothing)
    whole = dice_weight * dice + ce_weight * average_voxels(nll_BN, voxels, class_weights)
    weight_BN = weigh_voxels(voxels, class_weights)
    total, count = whole.new_zeros(()), whole.new_zeros(())
    for weight, (p_BN, inside_BN) in zip(weigh_classes(class_weights, voxels.log_p)[1:], foreground(voxels)):
        cell_BN, n = nearest_components(inside_BN, label_B.shape)
        cell_BN = torch.where(voxels.valid, cell_BN, -1)
        overlap = Overlap(*(_sum_cells(x_BN, cell_BN, n) for x_BN in (p_BN * inside_BN, p_BN, inside_BN)))
        ce, seen = (_sum_cells(x_BN, cell_BN, n) for x_BN in (nll_BN * weight_BN, weight_BN))
        parts = dice_weight * (1 - dice_of(overlap, smooth)) + ce_weight * ce / torch.where(seen > 0, seen, 1)
        total, count = total + weight * parts.sum(), count + weight * n
    return whole + component_weight * divide_sums(total, count)


def _sum_cells(values_BN: Tensor, cell_BN: Tensor, n: int) -> Tensor:
    """Return (n,) sums of the values in each cell; voxels of cell -1 are left out."""
    owned_BN = cell_BN >= 0
    dtype = torch.promote_types(values_BN.dtype, torch.float32)
    return values_BN.new_zeros(n, dtype=dtype).index_add(0, cell_BN[owned_BN], values_BN[owned_BN].to(dtype))
