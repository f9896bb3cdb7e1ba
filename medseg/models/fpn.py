"""Feature pyramid: every level, however coarse or fine, speaks in the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.models.features import Size, choose_features, pick, spread
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn

BLOCKS = {"nano": (1,), "small": (1, 1), "base": (1, 2), "large": (1, 3)}  # residual, per level


def fpn(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    features: Sequence[int] | None = None,
    size: Size | None = None,
    pyramid_channels: int | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a semantic feature pyramid network (Lin et al. 2017, decoder of Kirillov et al. 2019).

    The pyramid reaches full resolution (in the papers a fourth), and coarse levels are added to fine
    ones and to the output, so that small objects are found and seen in their surroundings.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: Channels per level of the residual encoder, finest first.
        size: Named widths and blocks; None: the plan's widths, or `base`: 32, doubled up to 320 (2D: 512).
        pyramid_channels: Of each pyramid level, even; None: twice `features[0]`. The decoder has half, as
            in Kirillov et al. (256 and 128).
        dropout: Probability after the first convolution of each residual block.
    """
    from medseg.models.padding import PadToStride
    from medseg.models.pyramid import PyramidNet
    from medseg.models.residual import ResidualEncoder

    features = choose_features(features, grid, size=size)
    counts = spread(pick("size", BLOCKS, size or "base"), grid.levels)
    encoder = ResidualEncoder(in_channels, grid, features=features, blocks=counts, dropout=dropout)
    width = pyramid_channels or 2 * features[0]
    return PadToStride(
        PyramidNet(encoder, out_channels, grid, features=features, width=width), grid.total_stride
    )
