"""Dice plus cross-entropy of the hardest voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.losses.cross_entropy import smooth_nll
from medseg.losses.dice import average_dice
from medseg.losses.ranks import divide_sums
from medseg.losses.voxels import Voxels, compare, weigh_voxels


def dice_topk(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    include_background: bool = False,
    smooth: float = 1e-5,
    percent: float = 10.0,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return `dice_weight` x `dice` + `ce_weight` x the cross-entropy of the hardest voxels.

    The TopK loss of Wu et al. 2016 with nnU-Net's 10 %. The hardest are taken sample by sample, so that the
    choice does not depend on how samples are shared among processes.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background, for both terms.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: One Dice over the whole batch.
        include_background: Let class 0 enter the Dice term.
        smooth: Of the Dice term, in voxels.
        percent: Of a sample's valid voxels, rounded up; above 0, at most 100.
        dice_weight: Factor of the Dice term.
        ce_weight: Factor of the cross-entropy.
        label_smoothing: Of the cross-entropy.
    """
    if not 0 < percent <= 100:
        raise ConfigError(
            f"percent is {percent}", hint="give a number above 0, at most 100", code="TOPK_PERCENT"
        )
    voxels = compare(logits_BC, label_B, ignore_index)
    overlap = average_dice(
        voxels,
        class_weights=class_weights,
        batch_dice=batch_dice,
        include_background=include_background,
        smooth=smooth,
    )
    hardest = _average_hardest(smooth_nll(voxels, label_smoothing), voxels, class_weights, percent)
    return dice_weight * overlap + ce_weight * hardest


def _average_hardest(
    loss_BN: Tensor, voxels: Voxels, class_weights: Sequence[float] | None, percent: float
) -> Tensor:
    """Return the mean of the largest weighted losses, over the sum of their weights."""
    weight_BN = weigh_voxels(voxels, class_weights)
    keep_B = torch.ceil(voxels.valid.sum(1) * (percent / 100)).long()
    # -1 puts ignored voxels behind valid ones of no loss.
    ranked_BN = torch.where(voxels.valid, loss_BN.detach() * weight_BN, -1)
    hardest_BK = ranked_BN.topk(int(keep_B.max()), dim=1).indices
    kept_BK = torch.arange(hardest_BK.shape[1], device=keep_B.device) < keep_B[:, None]
    weight_BK = weight_BN.gather(1, hardest_BK) * kept_BK
    return divide_sums((loss_BN.gather(1, hardest_BK) * weight_BK).sum(), weight_BK.sum())
