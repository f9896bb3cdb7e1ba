"""SegResNet: residual blocks before activation, additive skips, linear upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.models.features import SEGRESNET, Size, choose_features, pick, spread
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn

# Residual blocks per level, the last number for all beyond. base: Myronenko 2018, table 1.
BLOCKS = {"nano": (1,), "small": (1, 1, 2), "base": (1, 2, 2, 4), "large": (1, 2, 4, 4)}


def segresnet(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    features: Sequence[int] | None = None,
    size: Size | None = None,
    deep_supervision: bool = True,
) -> nn.Module:
    """Build SegResNet (Myronenko 2018) of MONAI's blocks, without its autoencoder branch.

    Equal to MONAI's SegResNetDS on isotropic grids; strides and kernels here are the plan's.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: Channels per level, finest first; 8 divides them best, it is the number of groups.
        size: Named widths and blocks; None: the plan's widths, or `base`: 32, doubled up to 320 (2D: 512).
        deep_supervision: Return (while training) the outputs of all levels but the two coarsest.
    """
    from medseg.models.padding import PadToStride
    from medseg.models.segres import SegRes

    net = SegRes(
        in_channels,
        out_channels,
        grid,
        features=choose_features(features, grid, size=size, table=SEGRESNET),
        blocks=spread(pick("size", BLOCKS, size or "base"), grid.levels),
        deep_supervision=deep_supervision,
    )
    return PadToStride(net, grid.total_stride)
