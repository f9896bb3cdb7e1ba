"""Fully convolutional networks on a ResNet: with skips (Long et al. 2015), or dilated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.models.features import pick
from medseg.models.grid import Grid
from medseg.models.steps import choose_output_stride, plan_steps, total_stride

if TYPE_CHECKING:
    from torch import nn

SKIPS = {"32s": 0, "16s": 1, "8s": 2}
DILATED = "dilated"


def fcn(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    size: str = "base",
    form: str = "8s",
    norm: str = "instance",
    output_stride: int | Sequence[int] | None = None,
    stem_levels: int | None = None,
    deep_supervision: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """Build FCN-32s, 16s, 8s, or the dilated FCN.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels; the encoder's five steps follow them.
        size: "nano", "small", "base" (ResNet-18) or "large" (ResNet-50).
        form: "32s", "16s", "8s": scores of the last 1, 2, 3 stages, enlarged and added. "dilated": a head of
            convolutions on an encoder that dilates instead of halving (at 21 classes, "large", 2D 32,957,013
            weights, and 35,322,218 with deep supervision).
        norm: "instance", "group" or "batch" (published weights; batches of more than two).
        output_stride: Of all axes or one per axis. None: the grid's, up to 32; "dilated": up to 8, and no
            more than leaves 8 voxels of the patch.
        stem_levels: 2: the first stage at stride 4 as published. 1: at 2. None: 1 for grids of less than six
            levels.
        deep_supervision: Return (while training) the scores of the third stage as well.
        dropout: Probability before the classifier of a convolution head.

    Raises:
        ConfigError: Unknown `size`, `form` or `norm`; an output stride or stem that does not fit.
    """
    from medseg.models.atrous import make_atrous, make_convolution_head
    from medseg.models.fcn_heads import LastFeatures, Skips
    from medseg.models.layers import Layers
    from medseg.models.padding import PadToStride
    from medseg.models.resnet import SIZES

    pick("form of `fcn`", dict.fromkeys([*SKIPS, DILATED]), form)
    layers = Layers(grid.dims, norm)
    channels = pick("size", SIZES, size).channels
    most = choose_output_stride(grid, output_stride, 8, stem_levels)
    if form != DILATED and output_stride is None:
        most = (32,) * grid.dims
    steps = plan_steps(grid, most, stem_levels)
    head: nn.Module
    if form == DILATED:
        head = LastFeatures(
            make_convolution_head(layers, channels[3], out_channels, kernel=steps[-1].kernel, dropout=dropout)
        )
    else:
        head = Skips(layers, out_channels, steps, size, SKIPS[form])
    auxiliary = (out_channels, dropout) if deep_supervision else None
    return PadToStride(
        make_atrous(in_channels, layers, steps, size, head, auxiliary=auxiliary), total_stride(steps)
    )
