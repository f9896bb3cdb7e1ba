"""The reference network: nnU-Net's U-Net from MONAI's DynUNet blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.models.features import Size, choose_features
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn


def unet(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    features: Sequence[int] | None = None,
    size: Size | None = None,
    residual: bool = False,
    deep_supervision: bool = True,
    dropout: float = 0.0,
    upsampling: str = "transposed",
) -> nn.Module:
    """Build an nnU-Net-like U-Net (Isensee et al. 2021).

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: Channels per level, finest first.
        size: Named widths; None: the plan's, or `base`: 32, doubled up to 320 (2D: 512).
        residual: Residual blocks in the encoder: better and slower at equal width.
        deep_supervision: Return (while training) the outputs of all levels but the two coarsest.
        dropout: Probability after each convolution.
        upsampling: "transposed" as in nnU-Net, or "linear": interpolation and a convolution, against
            checkerboards.
    """
    from medseg.models.encoder_decoder import EncoderDecoder
    from medseg.models.padding import PadToStride

    net = EncoderDecoder(
        in_channels,
        out_channels,
        grid,
        features=choose_features(features, grid, size=size),
        residual=residual,
        deep_supervision=deep_supervision,
        dropout=dropout,
        upsampling=upsampling,
    )
    return PadToStride(net, grid.total_stride)
