"""Tversky loss: Dice in which missed and wrongly marked voxels cost differently."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medseg.losses.overlap import Overlap, average_classes, overlap_classes, require_smooth
from medseg.losses.voxels import compare


def tversky(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    include_background: bool = False,
    smooth: float = 1e-5,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
) -> Tensor:
    """Return 1 - the mean Tversky index of the classes.

    Salehi et al. 2017, with their weights for lesions: missing a voxel costs more than adding one. With 0.5
    and 0.5 it is Dice.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background; weights of the mean over classes.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: One index over the whole batch.
        include_background: Let class 0 enter the mean.
        smooth: Added to numerator and denominator, in voxels; above 0.
        fp_weight: Of a false positive; alpha.
        fn_weight: Of a false negative; beta.
    """
    require_smooth(smooth)
    voxels = compare(logits_BC, label_B, ignore_index)
    overlap = overlap_classes(voxels, include_background=include_background, pooled=batch_dice)
    loss_BC = 1 - tversky_index(overlap, fp_weight, fn_weight, smooth)
    return average_classes(loss_BC, voxels, class_weights, pooled=batch_dice)


def tversky_index(overlap: Overlap, fp_weight: float, fn_weight: float, smooth: float) -> Tensor:
    """Return (tp + s) / (tp + alpha fp + beta fn + s) of soft counts."""
    tp = overlap.shared
    wrong = fp_weight * (overlap.predicted - tp) + fn_weight * (overlap.size - tp)
    return (tp + smooth) / (tp + wrong + smooth)
