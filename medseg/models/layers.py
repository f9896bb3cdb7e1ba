"""Layers of the networks that are written here, in 2D and 3D alike.

Letters of tensor names: B batch, C channels, the rest spatial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from medseg.models.blocks import BATCH_NORM, CONV, INSTANCE_NORM, LINEAR
from medseg.models.features import pick

NORMS = ("instance", "group", "batch")
GROUPS = 32  # Wu and He 2018, section 4.1


class ChannelNorm(nn.LayerNorm):
    """Normalise each voxel over its channels; the norm of maps of a single voxel, which others erase."""

    def forward(self, features_BC: Tensor) -> Tensor:
        return channels_first(super().forward(channels_last(features_BC)))


@dataclass(frozen=True)
class Layers:
    """Makes the layers of one network.

    Args:
        dims: Spatial axes, 2 or 3.
        norm: "instance", "group" (32 groups, or the most that divide the channels), or "batch", which
            published weights need and batches of one or two do not bear. Each has two weights a channel.

    Raises:
        ConfigError: `UNKNOWN_NAME` of the norm.
    """

    dims: int
    norm: str = "instance"

    def __post_init__(self) -> None:
        """Refuse an unknown norm."""
        pick("norm", dict.fromkeys(NORMS), self.norm)

    def make_norm(self, channels: int) -> nn.Module:
        if self.norm == "batch":
            return BATCH_NORM[self.dims](channels)
        if self.norm == "group":
            return nn.GroupNorm(max(n for n in range(1, GROUPS + 1) if channels % n == 0), channels)
        return INSTANCE_NORM[self.dims](channels, affine=True)

    def make_conv(
        self,
        inner: int,
        outer: int,
        kernel: Sequence[int],
        *,
        stride: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> nn.Module:
        """Return a convolution that keeps the size but for its stride; `kernel` (dims,) is odd."""
        rates = tuple(dilation or (1,) * self.dims)
        return CONV[self.dims](
            inner,
            outer,
            tuple(kernel),
            stride=tuple(stride or (1,) * self.dims),
            padding=tuple(rate * (size // 2) for rate, size in zip(rates, kernel)),
            dilation=rates,
            groups=groups,
            bias=bias,
        )

    def make_reduction(self, channels: int, ratio: Sequence[int]) -> nn.Module:
        """Return a convolution of patches that do not overlap."""
        return CONV[self.dims](channels, channels, tuple(ratio), stride=tuple(ratio))

    def make_pointwise(self, inner: int, outer: int) -> nn.Module:
        """Return a convolution of single voxels with bias: a classifier."""
        return self.make_conv(inner, outer, (1,) * self.dims, bias=True)

    def make_block(
        self,
        inner: int,
        outer: int,
        kernel: Sequence[int],
        *,
        dilation: Sequence[int] | None = None,
        separable: bool = False,
    ) -> nn.Sequential:
        """Return convolution, norm and ReLU.

        `separable`: the convolution is split into one per channel and one across channels (Chen et al. 2018,
        section 3.2); not where the kernel is a single voxel anyway.
        """
        if separable and max(kernel) > 1:
            convolution = [
                self.make_conv(inner, inner, kernel, dilation=dilation, groups=inner),
                self.make_conv(inner, outer, (1,) * self.dims),
            ]
        else:
            convolution = [self.make_conv(inner, outer, kernel, dilation=dilation)]
        return nn.Sequential(*convolution, self.make_norm(outer), nn.ReLU(inplace=True))


def channels_last(features_BC: Tensor) -> Tensor:
    """(B, C, *spatial) -> (B, *spatial, C); by positive axes, since exporters mistake negative ones."""
    return features_BC.movedim(1, features_BC.dim() - 1)


def channels_first(tokens_BC: Tensor) -> Tensor:
    """(B, *spatial, C) -> (B, C, *spatial)."""
    return tokens_BC.movedim(tokens_BC.dim() - 1, 1)


def resize(features_BC: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate linearly to `shape`; the two grids cover the same box."""
    if tuple(features_BC.shape[2:]) == tuple(shape):
        return features_BC
    return functional.interpolate(
        features_BC, size=tuple(shape), mode=LINEAR[len(shape)], align_corners=False
    )


def initialize(module: nn.Module) -> None:
    """Draw convolution weights after He et al. 2015 and set biases to 0; for `nn.Module.apply`."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
