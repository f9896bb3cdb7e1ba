"""The U-Net as it was published, and the same in 3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.models.features import PAPER, Size, choose_features
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn


def paper_unet(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    features: Sequence[int] | None = None,
    size: Size | None = None,
    dropout: float = 0.0,
    upsampling: str = "transposed",
) -> nn.Module:
    """Build the U-Net of Ronneberger et al. 2015: no norm, two convolutions with bias per level.

    64 to 1024 channels on the five levels of the paper (31.03 M parameters with one channel and two
    classes) whatever the plan proposes. The one difference is that convolutions are padded, so that the
    output has the size of the input.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides (here of max pooling) and kernels of the levels.
        features: Channels per level, finest first.
        size: Named widths; None is `base`: 64, doubled up to 1024.
        dropout: Probability at the end of the contracting path, where the paper has it.
        upsampling: "transposed" as in the paper, or "linear": interpolation and a convolution.
    """
    from medseg.models.padding import PadToStride
    from medseg.models.plain import PlainUNet

    net = PlainUNet(
        in_channels,
        out_channels,
        grid,
        features=choose_features(features, grid, size=size or "base", table=PAPER),
        dropout=dropout,
        upsampling=upsampling,
    )
    return PadToStride(net, grid.total_stride)
