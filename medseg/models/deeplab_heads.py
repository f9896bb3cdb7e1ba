"""Heads of DeepLabv3 and DeepLabv3+ (Chen et al. 2017, 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.layers import ChannelNorm, Layers, resize
from medseg.models.resnet import Size
from medseg.models.steps import Axes


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: one voxel, several dilations and the mean of the map, side by side.

    Args:
        layers: Makes the layers.
        inner: Channels in.
        outer: Channels of each branch and of the result.
        kernel: (dims,) of the dilated branches. The mean is not taken over axes of kernel 1, whose slices are
            not to mix.
        rates: One (dims,) dilation per branch.
        separable: Separable dilated convolutions.
        dropout: Probability in the result.
    """

    def __init__(
        self,
        layers: Layers,
        inner: int,
        outer: int,
        *,
        kernel: Axes,
        rates: Sequence[Axes],
        separable: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        one = (1,) * layers.dims
        self.branches = nn.ModuleList([layers.make_block(inner, outer, one)])
        self.branches.extend(
            layers.make_block(inner, outer, kernel, dilation=rate, separable=separable) for rate in rates
        )
        self.pooled_axes = [axis for axis, size in enumerate(kernel, start=2) if size > 1]
        # Of one voxel, instance and group norm leave little or nothing: normalise over its channels.
        norm = layers.make_norm(outer) if layers.norm == "batch" else ChannelNorm(outer)
        self.pooled = nn.Sequential(layers.make_conv(inner, outer, one), norm, nn.ReLU(inplace=True))
        self.project = layers.make_block(outer * (len(rates) + 2), outer, one)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features_BC: Tensor) -> Tensor:
        views_BC = [branch(features_BC) for branch in self.branches]
        mean_BC = features_BC.mean(self.pooled_axes, keepdim=True) if self.pooled_axes else features_BC
        views_BC.append(self.pooled(mean_BC).expand(-1, -1, *features_BC.shape[2:]))
        result_BC: Tensor = self.dropout(self.project(torch.cat(views_BC, dim=1)))
        return result_BC


class Plain(nn.Module):
    """The head of DeepLabv3: the pyramid, one convolution and a classifier."""

    def __init__(
        self, layers: Layers, pyramid: Pyramid, inner: int, out_channels: int, *, kernel: Axes
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.block = layers.make_block(inner, inner, kernel)
        self.score = layers.make_pointwise(inner, out_channels)

    def forward(self, image_BC: Tensor, features_BC: list[Tensor]) -> Tensor:
        logits_BC: Tensor = self.score(self.block(self.pyramid(features_BC[-1])))
        return logits_BC


class Decoder(nn.Module):
    """The decoder of DeepLabv3+: the pyramid's result beside thin features of the first stage.

    Args:
        layers: Makes the layers.
        pyramid: Applied to the last stage's features.
        size: Of the encoder.
        kernel: (dims,) of the first stage.
        separable: Separable convolutions.
        classifier: (image, features) -> logits.
    """

    def __init__(
        self,
        layers: Layers,
        pyramid: Pyramid,
        size: Size,
        kernel: Axes,
        *,
        separable: bool,
        classifier: nn.Module,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.low = layers.make_block(size.channels[0], size.low, (1,) * layers.dims)
        self.refine = nn.Sequential(
            layers.make_block(size.head + size.low, size.head, kernel, separable=separable),
            layers.make_block(size.head, size.head, kernel, separable=separable),
        )
        self.classifier = classifier

    def forward(self, image_BC: Tensor, features_BC: list[Tensor]) -> Tensor:
        low_BC = self.low(features_BC[0])
        high_BC = resize(self.pyramid(features_BC[-1]), low_BC.shape[2:])
        both_BC = self.refine(torch.cat([high_BC, low_BC], dim=1))
        logits_BC: Tensor = self.classifier(image_BC, both_BC)
        return logits_BC
