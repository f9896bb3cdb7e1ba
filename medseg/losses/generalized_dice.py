"""Generalised Dice loss: one Dice over all classes, rare ones weighted up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.losses.overlap import Overlap, average_classes, dice_of, overlap_classes, require_smooth
from medseg.losses.voxels import compare, weigh_classes


def generalized_dice(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    include_background: bool = True,
    smooth: float = 1e-5,
) -> Tensor:
    """Return 1 - 2 sum_c w_c sum p g / sum_c w_c (sum p + sum g), w_c = 1 / (voxels of class c)^2.

    Sudre et al. 2017, eq. 5. Here w is scaled so that the rarest class that is present has weight 1, which
    changes nothing but keeps `smooth` small beside it; a class that is absent gets that weight too, as in
    MONAI's GeneralizedDiceLoss.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background; factors of w.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: One Dice over the whole batch instead of one per sample.
        include_background: Let class 0 enter the sums, as the authors do.
        smooth: Added to numerator and denominator, in voxels of the rarest class; above 0.
    """
    require_smooth(smooth)
    voxels = compare(logits_BC, label_B, ignore_index)
    overlap = overlap_classes(voxels, include_background=include_background, pooled=batch_dice)
    size_BC = overlap.size.to(overlap.shared.dtype)
    rarest_B = torch.where(size_BC > 0, size_BC, torch.inf).amin(1, keepdim=True)
    weight_BC = torch.where(size_BC > 0, rarest_B / size_BC.clamp_min(1), 1) ** 2
    weight_C = weigh_classes(class_weights, voxels.log_p)[-size_BC.shape[1] :]
    weight_BC = weight_BC * weight_C / weight_C.amax().clamp_min(torch.finfo(weight_C.dtype).tiny)
    weighted = Overlap(*((weight_BC * sums_BC).sum(1, keepdim=True) for sums_BC in overlap))
    return average_classes(1 - dice_of(weighted, smooth), voxels, None, pooled=batch_dice)
