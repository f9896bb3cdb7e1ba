"""The quick network: MONAI's residual UNet, which leaves full resolution in its first layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.core.errors import ConfigError
from medseg.models.features import Size, choose_features
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn


def strided_unet(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    features: Sequence[int] | None = None,
    size: Size | None = None,
    residual_units: int = 2,
    dropout: float = 0.0,
) -> nn.Module:
    """Build MONAI's UNet (Kerfoot et al. 2018): several times faster than `unet` on a CPU.

    Its level 0 already lies on the grid's level 1, and its bottom adds no stride of its own, so a grid
    of n levels gives n channel counts and n - 1 strides. One kernel serves all levels: per axis the
    largest of the grid's. Weights keep torch's own initialisation, which this network was tuned with.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels, at least two.
        features: Channels per level, finest first.
        size: Named widths; None: the plan's, or `base`: 32, doubled up to 320 (2D: 512).
        residual_units: Convolutions per residual block; 0: plain convolutions.
        dropout: Probability after each convolution.

    Raises:
        ConfigError: `GRID_TOO_SHALLOW` for a grid of one level.
    """
    from monai.networks.nets import UNet

    from medseg.models.padding import PadToStride

    if grid.levels < 2:
        raise ConfigError(
            "`strided_unet` needs a grid of two levels or more, not 1",
            hint="enlarge the patch, or use `unet`",
            code="GRID_TOO_SHALLOW",
        )
    kernel = [max(sizes) for sizes in zip(*grid.kernels)]
    net = UNet(
        spatial_dims=grid.dims,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=choose_features(features, grid, size=size),
        strides=grid.strides[1:],
        kernel_size=kernel,
        up_kernel_size=kernel,
        num_res_units=residual_units,
        dropout=dropout,
    )
    return PadToStride(net, grid.total_stride)
