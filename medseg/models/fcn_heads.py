"""Heads of fully convolutional networks (Long et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from medseg.models.blocks import TRANSPOSED
from medseg.models.layers import Layers
from medseg.models.resnet import SIZES
from medseg.models.steps import Axes, Step


class Skips(nn.Module):
    """Score the last features, enlarge the scores step by step, and add those of finer stages.

    Args:
        layers: Makes the layers.
        out_channels: Classes.
        steps: Of the encoder; the enlargements undo their strides.
        size: Of the encoder.
        skips: Finer stages that are added: 0, 1, 2 are FCN-32s, 16s and 8s of Long et al. 2015, section 4.2.
    """

    def __init__(
        self, layers: Layers, out_channels: int, steps: Sequence[Step], size: str, skips: int
    ) -> None:
        super().__init__()
        coarse_first = SIZES[size].channels[::-1][: skips + 1]
        self.scores = nn.ModuleList(layers.make_pointwise(inner, out_channels) for inner in coarse_first)
        self.enlarge = nn.ModuleList(
            make_bilinear(layers.dims, out_channels, step.stride) for step in steps[::-1][:skips]
        )

    def forward(self, image_BC: Tensor, features_BC: list[Tensor]) -> Tensor:
        coarse_first = features_BC[::-1]
        logits_BC: Tensor = self.scores[0](coarse_first[0])
        for enlarge, score, finer_BC in zip(self.enlarge, self.scores[1:], coarse_first[1:]):
            logits_BC = enlarge(logits_BC) + score(finer_BC)
        return logits_BC


class LastFeatures(nn.Module):
    """Apply `net` to the features of the last stage only."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image_BC: Tensor, features_BC: list[Tensor]) -> Tensor:
        logits_BC: Tensor = self.net(features_BC[-1])
        return logits_BC


def make_bilinear(dims: int, channels: int, stride: Axes) -> nn.Module:
    """Return a transposed convolution that begins as linear interpolation of each channel by itself.

    Long et al. 2015, section 4.1; kernel and padding as in their code: 2s - s mod 2 and ceil((s - 1) / 2).
    """
    kernel = tuple(2 * step - step % 2 for step in stride)
    padding = tuple(step // 2 for step in stride)
    layer = TRANSPOSED[dims](channels, channels, kernel, stride, padding, bias=False)
    weight = layer.get_parameter("weight")
    rows = [1 - (torch.arange(size) - (size - 1) / 2).abs() / step for size, step in zip(kernel, stride)]
    tent = reduce(lambda product, row: product[..., None] * row, rows)
    with torch.no_grad():
        eye = torch.eye(channels).reshape(channels, channels, *(1,) * dims)
        weight.copy_(eye * tent)
    return layer
