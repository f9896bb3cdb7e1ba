"""DeepLabv3 and DeepLabv3+ (Chen et al. 2017, 2018) on a ResNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.models.features import pick
from medseg.models.grid import Grid
from medseg.models.steps import choose_output_stride, choose_rates, plan_steps, total_stride

if TYPE_CHECKING:
    from torch import nn


def deeplab_v3(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    size: str = "base",
    norm: str = "instance",
    output_stride: int | Sequence[int] | None = None,
    stem_levels: int | None = None,
    rates: Sequence[int] | None = None,
    separable: bool = False,
    deep_supervision: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """Build DeepLabv3: a dilated encoder, a pyramid of dilations, and linear enlargement.

    At 21 classes, "large", 2D it has 39,638,869 weights, and 42,004,074 with deep supervision.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Patch, strides and kernels; the encoder's five steps follow its levels.
        size: "nano", "small", "base" (ResNet-18) or "large" (ResNet-50).
        norm: "instance", "group" or "batch" (published weights; batches of more than two).
        output_stride: Of all axes or one per axis. None: up to 8, and no more than leaves 8 voxels of
            the patch.
        stem_levels: 2: the first stage at stride 4 as published. 1: at 2. None: 1 for grids of less than six
            levels.
        rates: Dilations of the pyramid. None: 6, 12, 18 per 32 voxels of the map, axis by axis.
        separable: Convolutions of the pyramid split in one per channel and one across channels.
        deep_supervision: Return (while training) the scores of the third stage as well.
        dropout: Probability after the pyramid and before the auxiliary classifier.

    Raises:
        ConfigError: Unknown `size` or `norm`; an output stride, stem or rate that does not fit.
    """
    from medseg.models.atrous import make_atrous
    from medseg.models.deeplab_heads import Plain, Pyramid
    from medseg.models.layers import Layers
    from medseg.models.padding import PadToStride
    from medseg.models.resnet import SIZES

    steps = plan_steps(grid, choose_output_stride(grid, output_stride, 8, stem_levels), stem_levels)
    layers = Layers(grid.dims, norm)
    sizes = pick("size", SIZES, size)
    pyramid = Pyramid(
        layers,
        sizes.channels[3],
        sizes.head,
        kernel=steps[-1].kernel,
        rates=choose_rates(grid, steps, rates),
        separable=separable,
        dropout=dropout,
    )
    head = Plain(layers, pyramid, sizes.head, out_channels, kernel=steps[-1].kernel)
    auxiliary = (out_channels, dropout) if deep_supervision else None
    return PadToStride(
        make_atrous(in_channels, layers, steps, size, head, auxiliary=auxiliary), total_stride(steps)
    )


def deeplab_v3_plus(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    size: str = "base",
    norm: str = "instance",
    output_stride: int | Sequence[int] | None = None,
    stem_levels: int | None = None,
    rates: Sequence[int] | None = None,
    separable: bool = True,
    fine_channels: int = 0,
    deep_supervision: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """Build DeepLabv3+: DeepLabv3 with separable convolutions and a decoder that sees the first stage.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Patch, strides and kernels; the encoder's five steps follow its levels.
        size: "nano", "small", "base" (ResNet-18) or "large" (ResNet-50).
        norm: "instance", "group" or "batch" (published weights; batches of more than two).
        output_stride: Of all axes or one per axis. None: up to 16, and no more than leaves 8 voxels of
            the patch.
        stem_levels: 2: the first stage at stride 4 as published. 1: at 2. None: 1 for grids of less than six
            levels.
        rates: Dilations of the pyramid. None: 6, 12, 18 per 32 voxels of the map, axis by axis.
        separable: Convolutions of pyramid and decoder split in one per channel and one across channels.
        fine_channels: Channels at full resolution before the classifier; 0: logits are enlarged from the
            first stage, as published.
        deep_supervision: Return (while training) the scores of the third stage as well.
        dropout: Probability after the pyramid and before the auxiliary classifier.

    Raises:
        ConfigError: Unknown `size` or `norm`; an output stride, stem or rate that does not fit.
    """
    from medseg.models.atrous import make_atrous
    from medseg.models.classifiers import make_classifier
    from medseg.models.deeplab_heads import Decoder, Pyramid
    from medseg.models.layers import Layers
    from medseg.models.padding import PadToStride
    from medseg.models.resnet import SIZES

    steps = plan_steps(grid, choose_output_stride(grid, output_stride, 16, stem_levels), stem_levels)
    layers = Layers(grid.dims, norm)
    sizes = pick("size", SIZES, size)
    pyramid = Pyramid(
        layers,
        sizes.channels[3],
        sizes.head,
        kernel=steps[-1].kernel,
        rates=choose_rates(grid, steps, rates),
        separable=separable,
        dropout=dropout,
    )
    classifier = make_classifier(
        layers, in_channels, sizes.head, out_channels, kernel=grid.kernels[0], fine_channels=fine_channels
    )
    head = Decoder(layers, pyramid, sizes, steps[1].kernel, separable=separable, classifier=classifier)
    auxiliary = (out_channels, dropout) if deep_supervision else None
    return PadToStride(
        make_atrous(in_channels, layers, steps, size, head, auxiliary=auxiliary), total_stride(steps)
    )
