"""The network for a CPU: full resolution is a thin branch, the work happens from level 1 on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.core.errors import ConfigError
from medseg.models.features import LIGHT, Size, choose_features
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn


def light_unet(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    features: Sequence[int] | None = None,
    size: Size | None = None,
    blocks: int = 1,
    upsampling: str = "transposed",
    deep_supervision: bool = True,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a residual-encoder U-Net that is thin at full resolution.

    Level 0 is one convolution down and one up, of `features[0]` channels, so that edges are drawn at
    full resolution while nearly all of the work is done on an eighth of the voxels.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels, at least two.
        features: Channels per level, finest first.
        size: Named widths; None: the plan's, or `base`.
        blocks: Residual blocks per level below full resolution.
        upsampling: "transposed" or "linear" (smoother, no checkerboards).
        deep_supervision: Return (while training) the outputs of all levels but the two coarsest.
        dropout: Probability after the first convolution of each residual block.

    Raises:
        ConfigError: `GRID_TOO_SHALLOW` for a grid of one level.
    """
    from medseg.models.padding import PadToStride
    from medseg.models.residual import ResidualEncoder, ResidualUNet

    if grid.levels < 2:
        raise ConfigError(
            "`light_unet` needs a grid of two levels or more, not 1",
            hint="enlarge the patch, or use `unet`",
            code="GRID_TOO_SHALLOW",
        )
    features = choose_features(features, grid, size=size, table=LIGHT)
    counts = (0, *[blocks] * (grid.levels - 1))
    encoder = ResidualEncoder(in_channels, grid, features=features, blocks=counts, dropout=dropout)
    net = ResidualUNet(
        encoder,
        out_channels,
        grid,
        features=features,
        upsampling=upsampling,
        deep_supervision=deep_supervision,
    )
    return PadToStride(net, grid.total_stride)
