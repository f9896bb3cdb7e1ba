"""Cross-entropy, with the same options and rules as the other losses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medseg.losses.voxels import average_voxels, compare


def cross_entropy(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Return the mean of -log p over voxels, p of the true class.

    torch's own is NaN for a batch in which every voxel is ignored; this one is 0.

    Args:
        logits_BC: (B, C, *spatial).
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background, normalised by their sum over voxels.
        ignore_index: Label of voxels that count for nothing.
    """
    voxels = compare(logits_BC, label_B, ignore_index)
    return average_voxels(voxels.nll, voxels, class_weights)
