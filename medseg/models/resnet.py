"""ResNet as an encoder, in 2D and 3D, with strides or dilations as the steps say (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from medseg.models.blocks import MAX_POOL
from medseg.models.features import pick
from medseg.models.layers import Layers
from medseg.models.steps import Step


@dataclass(frozen=True)
class Size:
    """A row of He et al. 2016, table 1, or a smaller one.

    Args:
        depths: Blocks of the four stages.
        width: Channels of the first stage's 3-kernels; doubled from stage to stage.
        bottleneck: Blocks of kernels 1-3-1 that leave with four times the width.
        stem: Kernel of the first convolution.
        head: Channels of the decoder that is put on.
        low: Channels to which DeepLabv3+ thins the first stage.
    """

    depths: tuple[int, int, int, int]
    width: int
    bottleneck: bool
    stem: int
    head: int
    low: int

    @property
    def channels(self) -> tuple[int, ...]:
        """Return (4,) channels that leave the stages."""
        return tuple(self.width * (4 if self.bottleneck else 1) * 2**stage for stage in range(4))


SIZES = {
    "nano": Size((1, 1, 1, 1), 8, False, 3, 16, 8),
    "small": Size((1, 1, 1, 1), 32, False, 3, 64, 24),
    "base": Size((2, 2, 2, 2), 64, False, 7, 256, 48),  # ResNet-18
    "large": Size((3, 4, 6, 3), 64, True, 7, 256, 48),  # ResNet-50
}


class Residual(nn.Module):
    """Two 3-kernels (or 1-3-1) beside a shortcut, all with a norm.

    The stride lies in the first 3-kernel, as in the published weights of later years ("v1.5"), not in the
    1-kernel before it.

    Args:
        layers: Makes the layers.
        inner: Channels in.
        outer: Channels out.
        step: Kernel and stride; its first 3-kernel takes the dilation before the step, the others that after.
        bottleneck: 1-3-1.
    """

    def __init__(self, layers: Layers, inner: int, outer: int, step: Step, bottleneck: bool) -> None:
        super().__init__()
        one = (1,) * layers.dims
        width = outer // 4 if bottleneck else outer
        strided = layers.make_conv(
            width if bottleneck else inner,
            width,
            step.kernel,
            stride=step.stride,
            dilation=step.dilation_before,
        )
        sequence = [strided, layers.make_norm(width), nn.ReLU(inplace=True)]
        if bottleneck:
            before = [layers.make_conv(inner, width, one), layers.make_norm(width), nn.ReLU(inplace=True)]
            sequence = [*before, *sequence, layers.make_conv(width, outer, one)]
        else:
            sequence.append(layers.make_conv(outer, outer, step.kernel, dilation=step.dilation))
        self.residual = nn.Sequential(*sequence, layers.make_norm(outer))
        self.shortcut: nn.Module = nn.Identity()
        if inner != outer or max(step.stride) > 1:
            self.shortcut = nn.Sequential(
                layers.make_conv(inner, outer, one, stride=step.stride), layers.make_norm(outer)
            )
        self.activate = nn.ReLU(inplace=True)

    def forward(self, features_BC: Tensor) -> Tensor:
        summed_BC: Tensor = self.activate(self.residual(features_BC) + self.shortcut(features_BC))
        return summed_BC


class ResNet(nn.Module):
    """Give the features of the four stages, finest first.

    Args:
        in_channels: Channels of the image.
        layers: Makes the layers.
        steps: Five: first convolution, max-pooling (left out where it does not halve), stages 2 to 4.
        size: A key of `SIZES`.
    """

    def __init__(self, in_channels: int, layers: Layers, steps: Sequence[Step], size: str) -> None:
        super().__init__()
        sizes = pick("size", SIZES, size)
        first, second = steps[:2]
        kernel = tuple(sizes.stem if n > 1 else 1 for n in first.kernel)
        stem = [
            layers.make_conv(in_channels, sizes.width, kernel, stride=first.stride),
            layers.make_norm(sizes.width),
            nn.ReLU(inplace=True),
        ]
        if second.halves:
            padding = tuple(rate * (n // 2) for rate, n in zip(second.dilation_before, second.kernel))
            stem.append(MAX_POOL[layers.dims](second.kernel, second.stride, padding, second.dilation_before))
        self.stem = nn.Sequential(*stem)
        stages = []
        inner = sizes.width
        for stage, (depth, outer) in enumerate(zip(sizes.depths, sizes.channels)):
            step = second.without_stride if stage == 0 else steps[stage + 1]
            blocks = []
            for block in range(depth):
                plain = step if block == 0 else step.without_stride
                blocks.append(Residual(layers, inner, outer, plain, sizes.bottleneck))
                inner = outer
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, image_BC: Tensor) -> list[Tensor]:
        features_BC = self.stem(image_BC)
        levels: list[Tensor] = []
        for stage in self.stages:
            features_BC = stage(features_BC)
            levels.append(features_BC)
        return levels
