"""nnU-Net's residual-encoder U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.models.features import Size, choose_features, pick, spread
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn

# Residual blocks per level, the last number for all beyond. base and large: nnU-Net's ResEnc presets.
BLOCKS = {"nano": (1,), "small": (1, 2), "base": (1, 3, 4, 6), "large": (1, 3, 4, 6)}


def residual_unet(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    features: Sequence[int] | None = None,
    size: Size | None = None,
    blocks: Sequence[int] | None = None,
    deep_supervision: bool = True,
    dropout: float = 0.0,
    upsampling: str = "transposed",
) -> nn.Module:
    """Build nnU-Net's ResEnc U-Net (Isensee et al. 2024, "nnU-Net Revisited").

    A stem convolution, 1, 3, 4, 6, 6, ... residual blocks per level, one convolution per decoder level.
    Its presets M, L and XL are this network on grids for more and more memory. Differences: no bias
    before a norm, and a block's last norm starts at one, not zero.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: Channels per level, finest first.
        size: Named widths and blocks; None: the plan's widths, or `base`: 32, doubled up to 320 (2D: 512).
        blocks: Residual blocks per level, finest first, the last for all beyond; None: those of `size`.
        deep_supervision: Return (while training) the outputs of all levels but the two coarsest.
        dropout: Probability after the first convolution of each residual block.
        upsampling: "transposed" or "linear" (smoother, no checkerboards).

    Raises:
        ConfigError: `BLOCKS_INVALID` for a level without a block.
    """
    from medseg.models.padding import PadToStride
    from medseg.models.residual import ResidualEncoder, ResidualUNet

    features = choose_features(features, grid, size=size)
    counts = spread(blocks or pick("size", BLOCKS, size or "base"), grid.levels)
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
