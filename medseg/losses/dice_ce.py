"""Dice plus cross-entropy: nnU-Net's loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medseg.losses.cross_entropy import smooth_nll
from medseg.losses.dice import average_dice
from medseg.losses.voxels import average_voxels, compare


def dice_ce(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    include_background: bool = False,
    smooth: float = 1e-5,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return `dice_weight` x `dice` + `ce_weight` x `cross_entropy`; options as there.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background, for both terms.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: One Dice over the whole batch.
        include_background: Let class 0 enter the Dice term; the cross-entropy always sees it.
        smooth: Of the Dice term, in voxels.
        dice_weight: Factor of the Dice term.
        ce_weight: Factor of the cross-entropy.
        label_smoothing: Of the cross-entropy.
    """
    voxels = compare(logits_BC, label_B, ignore_index)
    overlap = average_dice(
        voxels,
        class_weights=class_weights,
        batch_dice=batch_dice,
        include_background=include_background,
        smooth=smooth,
    )
    nll_BN = smooth_nll(voxels, label_smoothing)
    return dice_weight * overlap + ce_weight * average_voxels(nll_BN, voxels, class_weights)
