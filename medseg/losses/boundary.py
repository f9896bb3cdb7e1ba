"""Dice plus boundary loss: a wrong voxel costs its distance to the true border."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.losses.dice import average_dice
from medseg.losses.distances import border_distances
from medseg.losses.voxels import average_foreground, compare, foreground


def boundary(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    smooth: float = 1e-5,
    dice_weight: float = 1.0,
    boundary_weight: float = 0.1,
) -> Tensor:
    """Return `dice_weight` x `dice` + `boundary_weight` x the mean of distance x |p - g|.

    Kervadec et al. 2019: the distance between two borders as an integral over the voxels between them. It is
    their signed distance x p with the constant that makes a perfect prediction cost 0. It needs a region term
    beside it. They raise the weight from 0.01 by 0.01 an epoch; here it is fixed. A class that a sample does
    not hold has no border there and enters the Dice term only.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background, which both terms leave out; weights of their means.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: One Dice over the whole batch.
        smooth: Of the Dice term, in voxels.
        dice_weight: Factor of the Dice term.
        boundary_weight: Factor of the boundary term, whose distances are in voxels of the label.
    """
    voxels = compare(logits_BC, label_B, ignore_index)
    overlap = average_dice(
        voxels, class_weights=class_weights, batch_dice=batch_dice, include_background=False, smooth=smooth
    )
    costs = []
    for p_BN, inside_BN in foreground(voxels):
        distance_BN = border_distances(inside_BN, voxels.valid, label_B.shape)
        costs.append(distance_BN * torch.where(inside_BN, 1 - p_BN, p_BN))
    return dice_weight * overlap + boundary_weight * average_foreground(costs, voxels, class_weights)
