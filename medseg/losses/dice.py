"""Soft Dice loss of softmax probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medseg.losses.overlap import average_classes, dice_of, overlap_classes, require_smooth
from medseg.losses.voxels import Voxels, compare


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
    """Return 1 - the mean soft Dice of the classes; the formula is `overlap.soft_dice`'s.

    Samples without a valid voxel do not enter the mean.

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
    require_smooth(smooth)
    overlap = overlap_classes(voxels, include_background=include_background, pooled=batch_dice)
    return average_classes(1 - dice_of(overlap, smooth), voxels, class_weights, pooled=batch_dice)
