"""`unet` with attention gates on its skips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.models.features import Size, choose_features
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn


def attention_unet(
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
    """Build an Attention U-Net (Oktay et al. 2018) on the blocks of `unet`.

    The finest skip has no gate, as in the paper (sec. 2.2): its features are of too low a level. With
    open gates the network is `unet`, weight by weight.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: Channels per level, finest first.
        size: Named widths; None: the plan's, or `base`: 32, doubled up to 320 (2D: 512).
        deep_supervision: Return (while training) the outputs of all levels but the two coarsest.
        dropout: Probability after each convolution.
        upsampling: "transposed" or "linear".
    """
    from medseg.models.encoder_decoder import EncoderDecoder
    from medseg.models.padding import PadToStride

    net = EncoderDecoder(
        in_channels,
        out_channels,
        grid,
        features=choose_features(features, grid, size=size),
        residual=False,
        deep_supervision=deep_supervision,
        dropout=dropout,
        upsampling=upsampling,
        is_gated=True,
    )
    return PadToStride(net, grid.total_stride)
