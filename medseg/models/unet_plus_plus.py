"""U-Net++: skips that are networks themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.models.features import Size, choose_features
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn


def unet_plus_plus(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    features: Sequence[int] | None = None,
    size: Size | None = None,
    deep_supervision: bool = True,
    dropout: float = 0.0,
    upsampling: str = "transposed",
) -> nn.Module:
    """Build a U-Net++ (Zhou et al. 2018, "UNet++: A nested U-Net architecture").

    Topology of the paper, with this package's blocks (strided convolutions, instance norm). It holds
    levels^2 / 2 nodes, half of them near full resolution: several times the work of `unet`.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: Channels per level, finest first.
        size: Named widths; None: the plan's, or `base`: 32, doubled up to 320 (2D: 512).
        deep_supervision: Return (while training) the outputs of all nested U-Nets, the deepest first; all
            are at full resolution. The deepest alone is the network's output.
        dropout: Probability after each convolution.
        upsampling: "transposed" or "linear".
    """
    from medseg.models.nested import NestedUNet
    from medseg.models.padding import PadToStride

    net = NestedUNet(
        in_channels,
        out_channels,
        grid,
        features=choose_features(features, grid, size=size),
        deep_supervision=deep_supervision,
        dropout=dropout,
        upsampling=upsampling,
    )
    return PadToStride(net, grid.total_stride)
