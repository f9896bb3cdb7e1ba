"""Heads whose regions overlap: one yes-or-no question per region, each answered by a sigmoid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medseg.core.volume import IGNORED


def per_region(
    loss: Callable[[Tensor, Tensor], Tensor], regions: Sequence[Sequence[int]]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean over regions of `loss`, for a head of one channel per region.

    The sigmoid of z is the softmax of (0, z), so a region is a problem of two classes, outside and inside,
    and every loss for classes is one for regions: `dice_ce` becomes Dice plus binary cross-entropy.
    `class_weights` are then those of outside and inside.

    Args:
        loss: Of two-class logits and label.
        regions: For each channel the classes of the label that lie in it. Ignored voxels stay ignored.

    Returns:
        A function of (B, regions, *spatial) logits and (B, *spatial) integer label.
    """

    def average(logits_BR: Tensor, label_B: Tensor) -> Tensor:
        if logits_BR.shape[1] != len(regions):
            raise ValueError(f"{logits_BR.shape[1]} output channels for {len(regions)} regions")
        terms = []
        for logit_B, classes in zip(logits_BR.unbind(1), regions):
            inside_B = torch.isin(label_B, torch.tensor(classes, device=label_B.device)).long()
            pair_BC = torch.stack([torch.zeros_like(logit_B), logit_B], 1)
            terms.append(loss(pair_BC, torch.where(label_B == IGNORED, IGNORED, inside_B)))
        return torch.stack(terms).mean()

    return average
