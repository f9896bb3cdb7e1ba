"""The frame of `fcn`, `deeplab_v3` and `deeplab_v3_plus`: a ResNet, a head, an auxiliary head in training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.models.layers import Layers, initialize, resize
from medseg.models.resnet import SIZES, ResNet
from medseg.models.steps import Step


class Atrous(nn.Module):
    """Give logits at the image's resolution.

    Args:
        backbone: Gives the features of four stages, finest first.
        head: (image, features) -> logits of any resolution.
        auxiliary: Third stage's features -> logits of their own resolution; their loss trains the encoder
            directly (Zhao et al. 2017, section 3.3). None: no deep supervision.
    """

    def __init__(self, backbone: ResNet, head: nn.Module, auxiliary: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary
        self.apply(initialize)

    def forward(self, image_BC: Tensor) -> Tensor | list[Tensor]:
        features_BC = self.backbone(image_BC)
        logits_BC = resize(self.head(image_BC, features_BC), image_BC.shape[2:])
        if self.auxiliary is None or not self.training:
            return logits_BC
        return [logits_BC, self.auxiliary(features_BC[2])]


def make_atrous(
    in_channels: int,
    layers: Layers,
    steps: Sequence[Step],
    size: str,
    head: nn.Module,
    *,
    auxiliary: tuple[int, float] | None,
) -> Atrous:
    """Put `head` on a ResNet; `auxiliary` is the classes and dropout of an auxiliary head, or None."""
    second = None
    if auxiliary is not None:
        out_channels, dropout = auxiliary
        second = make_convolution_head(
            layers, SIZES[size].channels[2], out_channels, kernel=steps[3].kernel, dropout=dropout
        )
    return Atrous(ResNet(in_channels, layers, steps, size), head, second)


def make_convolution_head(
    layers: Layers, inner: int, out_channels: int, *, kernel: Sequence[int], dropout: float
) -> nn.Sequential:
    """Return a convolution to a quarter of the channels, and a classifier: the published auxiliary head."""
    return nn.Sequential(
        layers.make_block(inner, inner // 4, kernel),
        nn.Dropout(dropout),
        layers.make_pointwise(inner // 4, out_channels),
    )
