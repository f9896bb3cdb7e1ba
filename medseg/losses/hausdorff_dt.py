"""Dice plus an estimate of the Hausdorff distance: wrong voxels far from both borders cost most."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medseg.losses.dice import average_dice
from medseg.losses.distances import border_distances
from medseg.losses.voxels import average_foreground, compare, foreground


def hausdorff_dt(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    smooth: float = 1e-5,
    dice_weight: float = 1.0,
    hausdorff_weight: float = 0.1,
    alpha: float = 2.0,
) -> Tensor:
    """Return `dice_weight` x `dice` + `hausdorff_weight` x the mean of (p - g)^2 (d_g^alpha + d_p^alpha).

    Karimi and Salcudean 2019, eq. 8 with their alpha: d_g and d_p are the distances to the border of the
    label and of the prediction, above 0.5. They rescale the weight every epoch so that both terms are equal;
    here it is fixed. A class without a border in label or prediction has no distance there.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background, which both terms leave out; weights of their means.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: One Dice over the whole batch.
        smooth: Of the Dice term, in voxels.
        dice_weight: Factor of the Dice term.
        hausdorff_weight: Factor of the Hausdorff term, whose distances are in voxels of the label.
        alpha: How much more a far voxel costs.
    """
    voxels = compare(logits_BC, label_B, ignore_index)
    overlap = average_dice(
        voxels, class_weights=class_weights, batch_dice=batch_dice, include_background=False, smooth=smooth
    )
    costs = []
    for p_BN, inside_BN in foreground(voxels):
        distances = (border_distances(mask, voxels.valid, label_B.shape) for mask in (inside_BN, p_BN > 0.5))
        costs.append((p_BN - inside_BN.to(p_BN.dtype)) ** 2 * sum(distance**alpha for distance in distances))
    return dice_weight * overlap + hausdorff_weight * average_foreground(costs, voxels, class_weights)
