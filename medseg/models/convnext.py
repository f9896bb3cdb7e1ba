"""The frame behind `mednext`.

MONAI's MedNeXt halves every axis at every level with one kernel size; this one takes both from the grid
and equals it where they agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from medseg.models.blocks import CONV, TRANSPOSED, convolve
from medseg.models.decoder import Decoder
from medseg.models.grid import Grid


class ConvNextBlock(nn.Module):
    """Depthwise convolution, norm per channel, widening, GELU, narrowing; around it the input flows.

    Args:
        inner: Channels in.
        outer: Channels out; the same as `inner` where `way` is "same".
        kernel: (dims,) of the depthwise convolution.
        stride: (dims,) between the two levels; not used where `way` is "same".
        expansion: Times `inner` channels inside.
        way: To a coarser level, to a finer one, or neither (Roy et al. 2023, fig. 1).
    """

    def __init__(
        self,
        inner: int,
        outer: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        expansion: int,
        way: Literal["same", "down", "up"] = "same",
    ) -> None:
        super().__init__()
        dims = len(kernel)
        one = (1,) * dims
        step = one if way == "same" else tuple(stride)
        layer = TRANSPOSED[dims] if way == "up" else CONV[dims]
        padding = tuple(size // 2 for size in kernel)
        self.front = tuple(n - 1 for n in step) if way == "up" else (0,) * dims  # to exactly `stride` times
        self.conv1 = layer(inner, inner, tuple(kernel), step, padding, groups=inner)
        self.norm = nn.GroupNorm(inner, inner)
        self.conv2 = convolve(inner, expansion * inner, one, bias=True)
        self.act = nn.GELU()
        self.conv3 = convolve(expansion * inner, outer, one, bias=True)
        self.res_conv = nn.Identity() if way == "same" else layer(inner, outer, one, step)

    def forward(self, x_BC: Tensor) -> Tensor:
        inside_BC = self.conv3(self.act(self.conv2(self.norm(self.conv1(x_BC)))))
        sum_BC: Tensor = inside_BC + self.res_conv(x_BC)
        if any(self.front):
            sum_BC = functional.pad(sum_BC, [n for front in reversed(self.front) for n in (front, 0)])
        return sum_BC


class ConvNextUNet(nn.Module):
    """U-Net of such blocks whose skips are added.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: (levels,) channels, finest first.
        blocks: (levels,) blocks per level, on each side.
        expansion: (levels,) widening inside the blocks of a level.
        deep_supervision: Return a list while training, of all levels but the two coarsest.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        grid: Grid,
        *,
        features: Sequence[int],
        blocks: Sequence[int],
        expansion: Sequence[int],
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        one = (1,) * grid.dims
        kernels, strides = grid.kernels, grid.strides

        def stack(level: int) -> nn.Module:
            same = (features[level], features[level], kernels[level], one)
            return nn.Sequential(
                *(ConvNextBlock(*same, expansion=expansion[level]) for _ in range(blocks[level]))
            )

        def step(level: int, way: Literal["down", "up"]) -> nn.Module:
            pair = (features[level], features[level + 1])
            inner, outer = pair if way == "down" else pair[::-1]
            return ConvNextBlock(
                inner, outer, kernels[level], strides[level + 1], expansion=expansion[level], way=way
            )

        coarser = range(grid.levels - 1)
        self.stem = convolve(in_channels, features[0], one, bias=True)
        self.encoder = nn.ModuleList(stack(level) for level in range(grid.levels))
        self.downs = nn.ModuleList(step(level, "down") for level in coarser)
        self.decoder = Decoder(
            (step(level, "up") for level in coarser),
            (stack(level) for level in coarser),
            features=features,
            out_channels=out_channels,
            dims=grid.dims,
            deep_supervision=deep_supervision,
            is_sum=True,
        )

    def forward(self, image_BC: Tensor) -> Tensor | list[Tensor]:
        maps = [self.encoder[0](self.stem(image_BC))]
        for down, stage in zip(self.downs, list(self.encoder)[1:]):
            maps.append(stage(down(maps[-1])))
        return self.decoder(maps)  # type: ignore[no-any-return]
