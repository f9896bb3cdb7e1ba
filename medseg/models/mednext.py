"""MedNeXt: ConvNeXt blocks in a U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.models.features import MEDNEXT, Size, choose_features, pick, spread
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn

# (blocks, expansion) per level, the last number for all beyond; small, base and large are the published
# S, B and L (Roy et al. 2023, table 1).
VARIANTS = {
    "nano": ((1,), (2,)),
    "small": ((2,), (2,)),
    "base": ((2,), (2, 3, 4)),
    "large": ((3, 4, 8), (3, 4, 8)),
}


def mednext(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    features: Sequence[int] | None = None,
    size: Size | None = None,
    deep_supervision: bool = True,
) -> nn.Module:
    """Build a MedNeXt (Roy et al. 2023): strong, and slow for its parameters.

    On the paper's five isotropic levels and kernels of 3 it is MONAI's MedNeXt (5.55 M parameters small,
    10.51 M base); strides and kernels here are the plan's.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: Channels per level, finest first.
        size: Named blocks; None: the blocks of `base` with the plan's widths, if it has any.
        deep_supervision: Return (while training) the outputs of all levels but the two coarsest.
    """
    from medseg.models.convnext import ConvNextUNet
    from medseg.models.padding import PadToStride

    blocks, expansion = pick("size", VARIANTS, size or "base")
    net = ConvNextUNet(
        in_channels,
        out_channels,
        grid,
        features=choose_features(features, grid, size=size, table=MEDNEXT),
        blocks=spread(blocks, grid.levels),
        expansion=spread(expansion, grid.levels),
        deep_supervision=deep_supervision,
    )
    return PadToStride(net, grid.total_stride)
