"""Dice plus focal loss: overlap for small structures, voxel by voxel for hard borders."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medseg.losses.dice import average_dice
from medseg.losses.focal import average_focal
from medseg.losses.voxels import compare


def dice_focal(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    include_background: bool = False,
    gamma: float = 2.0,
    smooth: float = 1e-5,
    dice_weight: float = 1.0,
    focal_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return `dice_weight` x `dice` + `focal_weight` x `focal`; options as there.

    MONAI 1.6.1 is no base for it: DiceFocalLoss has no `ignore_index` and takes a sigmoid in its focal term
    even with `softmax=True`; FocalLoss with `ignore_index` is C times too large (reduction "mean").

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background, for both terms.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: One Dice over the whole batch.
        include_background: Let class 0 enter the Dice term; the focal term always sees it.
        gamma: Focusing of the focal term.
        smooth: Of the Dice term, in voxels.
        dice_weight: Factor of the Dice term.
        focal_weight: Factor of the focal term.
        label_smoothing: Of the focal term.
    """
    voxels = compare(logits_BC, label_B, ignore_index)
    overlap = average_dice(
        voxels,
        class_weights=class_weights,
        batch_dice=batch_dice,
        include_background=include_background,
        smooth=smooth,
    )
    return dice_weight * overlap + focal_weight * average_focal(
        voxels, class_weights=class_weights, gamma=gamma, label_smoothing=label_smoothing
    )
