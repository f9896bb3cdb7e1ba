"""Binary cross-entropy plus Dice: every class against the rest, the classic loss of sigmoid heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medseg.losses.cross_entropy import require_smoothing
from medseg.losses.dice import average_dice
from medseg.losses.voxels import average_voxels, compare


def bce_dice(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    smooth: float = 1e-5,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return `dice_weight` x `dice` + `ce_weight` x the mean binary cross-entropy of class against the rest.

    Two classes are one sigmoid, and this is `dice_ce`: so it is for every region of a head whose regions
    overlap. With more classes each foreground class is a question of its own about the same softmax.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background, for both terms.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: One Dice over the whole batch.
        smooth: Of the Dice term, in voxels.
        dice_weight: Factor of the Dice term.
        ce_weight: Factor of the binary cross-entropy.
        label_smoothing: Share of each binary label that is spread evenly over yes and no.
    """
    require_smoothing(label_smoothing)
    voxels = compare(logits_BC, label_B, ignore_index)
    overlap = average_dice(
        voxels, class_weights=class_weights, batch_dice=batch_dice, include_background=False, smooth=smooth
    )
    bce_CBN = []
    for c in range(1, voxels.log_p.shape[1]):
        rest_BN = torch.cat([voxels.log_p[:, :c], voxels.log_p[:, c + 1 :]], 1).logsumexp(1)
        logit_BN = voxels.log_p[:, c] - rest_BN
        target_BN = (voxels.label == c).to(logit_BN.dtype) * (1 - label_smoothing) + label_smoothing / 2
        bce_CBN.append(functional.binary_cross_entropy_with_logits(logit_BN, target_BN, reduction="none"))
    bce = average_voxels(torch.stack(bce_CBN).mean(0), voxels, class_weights)
    return dice_weight * overlap + ce_weight * bce
