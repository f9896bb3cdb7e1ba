"""Cross-entropy, with the same options and rules as the other losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.losses.voxels import Voxels, average_voxels, compare


def cross_entropy(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean of -log p over voxels, p of the true class.

    torch's own is NaN for a batch in which every voxel is ignored; this one is 0.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background, normalised by their sum over voxels.
        ignore_index: Label of voxels that count for nothing.
        label_smoothing: Share of each label that is spread evenly over all classes (Szegedy et al. 2016).
    """
    voxels = compare(logits_BC, label_B, ignore_index)
    return average_voxels(smooth_nll(voxels, label_smoothing), voxels, class_weights)


def smooth_nll(voxels: Voxels, label_smoothing: float) -> Tensor:
    """Return (B, N) (1 - e) x -log p of the true class + e x the mean -log p of all classes; 0 where ignored.

    Raises:
        ConfigError: `LABEL_SMOOTHING`.
    """
    require_smoothing(label_smoothing)
    if not label_smoothing:
        return voxels.nll
    even_BN = torch.where(voxels.valid, -voxels.log_p.mean(1), 0)
    return (1 - label_smoothing) * voxels.nll + label_smoothing * even_BN


def require_smoothing(label_smoothing: float) -> None:
    """Raise ConfigError (`LABEL_SMOOTHING`) unless the share is at least 0 and below 1."""
    if not 0 <= label_smoothing < 1:
        raise ConfigError(
            f"label_smoothing is {label_smoothing}",
            hint="give a share from 0 to below 1, such as 0.1",
            code="LABEL_SMOOTHING",
        )
