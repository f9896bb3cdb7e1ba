"""Last layers: features of some resolution, and the image, to logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.layers import Layers, resize


class Classifier(nn.Module):
    """Score each voxel of the features; the image is not looked at."""

    def __init__(self, layers: Layers, inner: int, out_channels: int) -> None:
        super().__init__()
        self.score = layers.make_pointwise(inner, out_channels)

    def forward(self, image_BC: Tensor, features_BC: Tensor) -> Tensor:
        logits_BC: Tensor = self.score(features_BC)
        return logits_BC


class FineClassifier(nn.Module):
    """Score at the image's own resolution, where a few channels see the image itself.

    Features at a half or a quarter of the resolution cannot draw details of one voxel. This costs little,
    because there are `width` channels only on the fine grid.

    Args:
        layers: Makes the layers.
        in_channels: Channels of the image.
        inner: Channels of the features.
        out_channels: Classes.
        kernel: (dims,) of the grid's level 0.
        width: Channels at full resolution.
    """

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        inner: int,
        out_channels: int,
        *,
        kernel: Sequence[int],
        width: int,
    ) -> None:
        super().__init__()
        self.thin = layers.make_conv(inner, width, (1,) * layers.dims)
        self.look = layers.make_block(in_channels, width, kernel)
        self.merge = layers.make_block(2 * width, width, kernel)
        self.score = layers.make_pointwise(width, out_channels)

    def forward(self, image_BC: Tensor, features_BC: Tensor) -> Tensor:
        coarse_BC = resize(self.thin(features_BC), image_BC.shape[2:])
        logits_BC: Tensor = self.score(self.merge(torch.cat([coarse_BC, self.look(image_BC)], dim=1)))
        return logits_BC


def make_classifier(
    layers: Layers,
    in_channels: int,
    inner: int,
    out_channels: int,
    *,
    kernel: Sequence[int],
    fine_channels: int,
) -> Classifier | FineClassifier:
    """Return a classifier at the features' resolution, or with `fine_channels` above 0 at the image's."""
    if not fine_channels:
        return Classifier(layers, inner, out_channels)
    return FineClassifier(layers, in_channels, inner, out_channels, kernel=kernel, width=fine_channels)
