"""What every softmax loss starts from: probabilities and labels, voxel by voxel.

Letters of tensor names: B batch, C classes, N voxels of all spatial axes together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.errors import ConfigError
from medseg.losses.ranks import divide_sums


@dataclass(frozen=True)
class Voxels:
    """Prediction and label of a batch, flattened; ignored voxels count for nothing.

    Args:
        log_p: (B, C, N) log-probabilities, float32 or wider.
        nll: (B, N) -log p of the true class; 0 where ignored.
        label: (B, N) true class; 0 where ignored.
        valid: (B, N) False where ignored.
    """

    log_p: Tensor
    nll: Tensor
    label: Tensor
    valid: Tensor


def compare(logits_BC: Tensor, label_B: Tensor, ignore_index: int) -> Voxels:
    """Return log-probabilities and the negative log-likelihood of each voxel's true class.

    Computed in float32 (or wider), also under autocast: a sum over 10^6 voxels has no meaning in bf16.

    Args:
        logits_BC: (B, C, *spatial), C >= 2.
        label_B: (B, *spatial), integer classes 0..C-1 or `ignore_index`.
        ignore_index: Label of voxels that count for nothing.

    Raises:
        ValueError: The shapes do not belong together.
    """
    if label_B.shape != logits_BC.shape[:1] + logits_BC.shape[2:] or logits_BC.shape[1] < 2:
        raise ValueError(
            f"logits {tuple(logits_BC.shape)} and label {tuple(label_B.shape)} do not fit: "
            "expected (B, C, *spatial) with C >= 2 and (B, *spatial)"
        )
    wide = torch.promote_types(logits_BC.dtype, torch.float32)
    log_p_BCN = functional.log_softmax(logits_BC.flatten(2).to(wide), dim=1)
    valid_BN = label_B.flatten(1) != ignore_index
    class_BN = torch.where(valid_BN, label_B.flatten(1), 0).long()
    true_BN = log_p_BCN.gather(1, class_BN[:, None])[:, 0]
    return Voxels(log_p_BCN, torch.where(valid_BN, -true_BN, 0), class_BN, valid_BN)


def weigh_classes(class_weights: Sequence[float] | None, like: Tensor) -> Tensor:
    """Return (C,) weights, ones by default, for log-probabilities `like` of shape (B, C, N).

    Raises:
        ConfigError: `CLASS_WEIGHTS` where their number or sign does not fit.
    """
    classes = like.shape[1]
    if class_weights is None:
        return like.new_ones(classes)
    if len(class_weights) != classes or min(class_weights) < 0 or max(class_weights) <= 0:
        raise ConfigError(
            f"class weights {list(class_weights)} do not fit {classes} classes",
            hint=f"give {classes} numbers >= 0, background first, at least one above 0",
            code="CLASS_WEIGHTS",
        )
    return like.new_tensor(class_weights)


def average_voxels(loss_BN: Tensor, voxels: Voxels, class_weights: Sequence[float] | None) -> Tensor:
    """Return the mean over valid voxels, each weighted by the weight of its true class.

    As in `torch.nn.CrossEntropyLoss` the sum of the weights divides, so the scale of `class_weights`
    does not matter; both sums are those of the global batch. Without a valid voxel the mean is 0, and so is
    its gradient.
    """
    weight_BN = weigh_voxels(voxels, class_weights)
    return divide_sums((loss_BN * weight_BN).sum(), weight_BN.sum())


def weigh_voxels(voxels: Voxels, class_weights: Sequence[float] | None) -> Tensor:
    """Return (B, N): the weight of each voxel's true class, 0 where ignored."""
    if class_weights is None:
        return voxels.valid.to(voxels.log_p.dtype)
    return weigh_classes(class_weights, voxels.log_p)[voxels.label] * voxels.valid


def foreground(voxels: Voxels) -> list[tuple[Tensor, Tensor]]:
    """Return (B, N) probability and true mask of every class but background; no mask holds ignored voxels."""
    p_CBN = voxels.log_p[:, 1:].exp().unbind(1)
    return [(p_BN, (voxels.label == c) & voxels.valid) for c, p_BN in enumerate(p_CBN, 1)]


def average_foreground(
    cost_CBN: Sequence[Tensor], voxels: Voxels, class_weights: Sequence[float] | None
) -> Tensor:
    """Return the mean over valid voxels of each foreground class's cost, then their weighted mean."""
    weight_C = weigh_classes(class_weights, voxels.log_p)[1:]
    total = torch.stack([(cost_BN * voxels.valid).sum() for cost_BN in cost_CBN])
    return divide_sums((total * weight_C).sum(), weight_C.sum() * voxels.valid.sum())
