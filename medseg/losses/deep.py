"""Deep supervision: one loss over the outputs of several resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medseg.core.errors import ConfigError

Loss = Callable[[Tensor, Tensor], Tensor]
SupervisedLoss = Callable[[Tensor | Sequence[Tensor], Tensor], Tensor]


def deep_supervised(loss: Loss, weights: Sequence[float] | None = None) -> SupervisedLoss:
    """Return `loss` for networks that give one tensor or a list of tensors, finest first.

    Args:
        loss: (logits, label) -> scalar.
        weights: One per output, scaled to sum 1; None: 1/2^i (nnU-Net, Isensee et al. 2021).

    Returns:
        A function of the outputs and the full-resolution label (B, *spatial). The list's loss is the
        weighted mean over its levels, each against the label at the nearest voxel centres.

    Raises:
        ConfigError: SUPERVISION_WEIGHTS, none is above 0; when called, they are not as many as outputs.
    """
    if weights is not None and not sum(weights) > 0:
        raise ConfigError(
            f"deep supervision weights {list(weights)} leave nothing to learn from",
            hint="give one above 0",
            code="SUPERVISION_WEIGHTS",
        )

    def supervise(outputs: Tensor | Sequence[Tensor], label_B: Tensor) -> Tensor:
        if isinstance(outputs, Tensor):
            return loss(outputs, label_B)
        levels = weights or [0.5**level for level in range(len(outputs))]
        if len(levels) != len(outputs):
            raise ConfigError(
                f"{len(levels)} deep supervision weights for {len(outputs)} outputs",
                hint=f"give {len(outputs)} weights, finest level first",
                code="SUPERVISION_WEIGHTS",
            )
        terms = [
            weight / sum(levels) * loss(logits_BC, resize_label(label_B, logits_BC.shape[2:]))
            for weight, logits_BC in zip(levels, outputs)
            if weight
        ]
        return torch.stack(terms).sum()

    return supervise


def resize_label(label_B: Tensor, shape: Sequence[int]) -> Tensor:
    """Return (B, *shape): the label at the voxel nearest to each new voxel's centre.

    The two grids cover the same box. Where a centre falls between two voxels the upper one counts.
    `interpolate(mode="nearest-exact")` does the same, but for floating point only.
    """
    for axis, new in enumerate(shape, start=1):
        old = label_B.shape[axis]
        if new != old:
            index = (2 * torch.arange(new, device=label_B.device) + 1) * old // (2 * new)
            label_B = label_B.index_select(axis, index)
    return label_B
