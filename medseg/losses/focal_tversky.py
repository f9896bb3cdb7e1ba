"""Focal Tversky loss: small structures that are far from right weigh more than those nearly done."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medseg.losses.overlap import average_classes, overlap_classes, require_smooth
from medseg.losses.tversky import tversky_index
from medseg.losses.voxels import compare


def focal_tversky(
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
    gamma: float = 4 / 3,
) -> Tensor:
    """Return the mean over classes of (1 - Tversky index)^(1 / gamma).

    Abraham and Khan 2019, eq. 4, with their weights and gamma; options as in `tversky`.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background; weights of the mean over classes.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: One index over the whole batch.
        include_background: Let class 0 enter the mean.
        smooth: Added to numerator and denominator, in voxels; above 0.
        fp_weight: Of a false positive.
        fn_weight: Of a false negative.
        gamma: Above 1 steepens the loss near its end, below 1 near its start; above 0.
    """
    require_smooth(smooth)
    voxels = compare(logits_BC, label_B, ignore_index)
    overlap = overlap_classes(voxels, include_background=include_background, pooled=batch_dice)
    wrong_BC = 1 - tversky_index(overlap, fp_weight, fn_weight, smooth)
    # x^a as x x^(a - 1) with a floor in the power: 0 at 0, where the slope of x^a itself is infinite.
    loss_BC = wrong_BC * wrong_BC.clamp_min(1e-7) ** (1 / gamma - 1)
    return average_classes(loss_BC, voxels, class_weights, pooled=batch_dice)
