"""The frame behind `fpn`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.blocks import ConvNorm, convolve, initialize, interpolate
from medseg.models.grid import Grid


class PyramidNet(nn.Module):
    """Feature pyramid with the decoder of semantic FPN.

    Args:
        encoder: Gives one map per level, finest first.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: (levels,) channels of the encoder, finest first.
        width: Channels of each level of the pyramid; the decoder has half.
    """

    def __init__(
        self, encoder: nn.Module, out_channels: int, grid: Grid, *, features: Sequence[int], width: int
    ) -> None:
        super().__init__()
        one = (1,) * grid.dims
        self.encoder = encoder
        self.laterals = nn.ModuleList(convolve(count, width, one, bias=True) for count in features)
        self.steps = nn.ModuleList(
            nn.Upsample(scale_factor=tuple(float(n) for n in stride), mode="nearest")
            for stride in grid.strides[1:]
        )
        self.smooth = nn.ModuleList(convolve(width, width, kernel, bias=True) for kernel in grid.kernels)
        self.branches = nn.ModuleList(_climb(grid, level, width) for level in range(grid.levels))
        self.head = convolve(width // 2, out_channels, one, bias=True)
        self.apply(initialize)

    def forward(self, image_BC: Tensor) -> Tensor:
        sides = [lateral(map_BC) for lateral, map_BC in zip(self.laterals, self.encoder(image_BC))]
        for level in reversed(range(len(self.steps))):
            sides[level] = sides[level] + self.steps[level](sides[level + 1])
        ends = [branch(smooth(side_BC)) for branch, smooth, side_BC in zip(self.branches, self.smooth, sides)]
        return self.head(torch.stack(ends).sum(0))  # type: ignore[no-any-return]


def _climb(grid: Grid, level: int, width: int) -> nn.Module:
    """Return the way from a level to level 0: a convolution and a doubling per step (Kirillov, fig. 3)."""
    if level == 0:
        return ConvNorm(width, width // 2, grid.kernels[0])
    layers: list[nn.Module] = []
    for above in reversed(range(level)):
        inner = width if above == level - 1 else width // 2
        layers += [ConvNorm(inner, width // 2, grid.kernels[above + 1]), interpolate(grid.strides[above + 1])]
    return nn.Sequential(*layers)
