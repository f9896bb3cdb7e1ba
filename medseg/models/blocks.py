"""Convolution blocks that the networks of our own are made of.

Convolutions before a norm have no bias: the norm would take it away again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from medseg.models.features import pick

ByDims = Mapping[int, Callable[..., nn.Module]]  # number of spatial axes -> layer
CONV: ByDims = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: ByDims = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM: ByDims = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORM: ByDims = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
DROPOUT: ByDims = {2: nn.Dropout2d, 3: nn.Dropout3d}
MAX_POOL: ByDims = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL: ByDims = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
LINEAR = {2: "bilinear", 3: "trilinear"}
UPSAMPLING = ("transposed", "linear")
LEAKY_SLOPE = 0.01  # nnU-Net's


def convolve(
    inner: int, outer: int, kernel: Sequence[int], stride: Sequence[int] | None = None, *, bias: bool = False
) -> nn.Module:
    """Return a convolution that keeps the size where `stride` is one; its axes are those of `kernel`."""
    stride = tuple(stride or (1,) * len(kernel))
    padding = tuple(size // 2 for size in kernel)
    return CONV[len(kernel)](inner, outer, tuple(kernel), stride, padding, bias=bias)


class ConvNorm(nn.Sequential):
    """Convolution, dropout if any, instance norm and, unless `is_active` is off, a leaky ReLU."""

    def __init__(
        self,
        inner: int,
        outer: int,
        kernel: Sequence[int],
        stride: Sequence[int] | None = None,
        *,
        dropout: float = 0.0,
        is_active: bool = True,
    ) -> None:
        dims = len(kernel)
        super().__init__()
        self.add_module("conv", convolve(inner, outer, kernel, stride))
        if dropout:
            self.add_module("dropout", DROPOUT[dims](dropout))
        self.add_module("norm", INSTANCE_NORM[dims](outer, affine=True))
        if is_active:
            self.add_module("act", nn.LeakyReLU(LEAKY_SLOPE, inplace=True))


class ResidualBlock(nn.Module):
    """Two convolutions around which the input flows: nnU-Net's `BasicBlockD`.

    Where the block strides, the way around averages (ResNet-D, He et al. 2019, fig. 2c); where it
    changes channels, a convolution of one voxel and a norm follow.
    """

    def __init__(
        self,
        inner: int,
        outer: int,
        kernel: Sequence[int],
        stride: Sequence[int] | None = None,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        dims = len(kernel)
        stride = tuple(stride or (1,) * dims)
        self.conv1 = ConvNorm(inner, outer, kernel, stride, dropout=dropout)
        self.conv2 = ConvNorm(outer, outer, kernel, is_active=False)
        around: list[nn.Module] = []
        if max(stride) > 1:
            around.append(AVERAGE_POOL[dims](stride, stride))
        if inner != outer:
            around.append(ConvNorm(inner, outer, (1,) * dims, is_active=False))
        self.skip = nn.Sequential(*around)
        self.act = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    def forward(self, x_BC: Tensor) -> Tensor:
        return self.act(self.conv2(self.conv1(x_BC)) + self.skip(x_BC))  # type: ignore[no-any-return]


def upsample(
    coarse: int, fine: int, kernel: Sequence[int], stride: Sequence[int], *, kind: str, bias: bool = False
) -> nn.Module:
    """Return a layer from `coarse` channels to `fine` on a grid that is `stride` times finer.

    Args:
        coarse: Channels in.
        fine: Channels out.
        kernel: Of the convolution after linear interpolation.
        stride: (dims,).
        kind: "transposed": a convolution whose windows do not overlap, as in nnU-Net; early in training
            and on flat images neighbouring voxels differ by the pattern of its kernel. "linear":
            interpolation and a convolution, which cannot make such checkerboards (Odena et al. 2016).
        bias: Of the last convolution, for networks without norms.

    Raises:
        ConfigError: `UNKNOWN_NAME` of the kind.
    """
    dims = len(stride)
    pick("upsampling", dict.fromkeys(UPSAMPLING), kind)
    if kind == "transposed":
        return TRANSPOSED[dims](coarse, fine, tuple(stride), tuple(stride), bias=bias)
    # Channels are reduced where voxels are few: the result is the same, as both steps are linear.
    narrow = convolve(coarse, fine, (1,) * dims)
    return nn.Sequential(narrow, interpolate(stride), convolve(fine, fine, kernel, bias=bias))


def interpolate(stride: Sequence[int]) -> nn.Module:
    """Return linear interpolation to a grid that is `stride` times finer."""
    scale = tuple(float(step) for step in stride)
    return nn.Upsample(scale_factor=scale, mode=LINEAR[len(scale)], align_corners=False)


def initialize(module: nn.Module) -> None:
    """Draw convolution weights as nnU-Net does (He et al. 2015, leaky slope 0.01); biases become 0."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
