"""The frame behind `unet_plus_plus`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.blocks import ConvNorm, convolve, initialize, upsample
from medseg.models.grid import Grid


class NestedUNet(nn.Module):
    """Nodes X(level, step): each sees all nodes before it on its level and the one below (eq. 1).

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: (levels,) channels, finest first.
        deep_supervision: A head for each node at full resolution; return all of them while training.
        dropout: Probability after each convolution.
        upsampling: "transposed" or "linear".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        grid: Grid,
        *,
        features: Sequence[int],
        deep_supervision: bool,
        dropout: float,
        upsampling: str,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        deepest = grid.levels - 1
        self.encoder = nn.ModuleList(
            nn.Sequential(
                ConvNorm(inner, outer, kernel, stride, dropout=dropout),
                ConvNorm(outer, outer, kernel, dropout=dropout),
            )
            for inner, outer, kernel, stride in zip(
                (in_channels, *features), features, grid.kernels, grid.strides
            )
        )
        self.ups = nn.ModuleDict()
        self.nodes = nn.ModuleDict()
        for step in range(1, grid.levels):
            for level in range(grid.levels - step):
                fine, kernel = features[level], grid.kernels[level]
                self.ups[f"{level}_{step}"] = upsample(
                    features[level + 1], fine, kernel, grid.strides[level + 1], kind=upsampling
                )
                self.nodes[f"{level}_{step}"] = nn.Sequential(
                    ConvNorm((step + 1) * fine, fine, kernel, dropout=dropout),
                    ConvNorm(fine, fine, kernel, dropout=dropout),
                )
        self.heads = nn.ModuleList(  # deepest first: the first is the network's own
            convolve(features[0], out_channels, (1,) * grid.dims, bias=True)
            for _ in range(max(1, deepest) if deep_supervision else 1)
        )
        self.apply(initialize)

    def forward(self, image_BC: Tensor) -> Tensor | list[Tensor]:
        rows: list[list[Tensor]] = []  # nodes of each level, left to right
        below_BC = image_BC
        for stage in self.encoder:
            below_BC = stage(below_BC)
            rows.append([below_BC])
        for step in range(1, len(rows)):
            for level in range(len(rows) - step):
                up_BC = self.ups[f"{level}_{step}"](rows[level + 1][step - 1])
                node = self.nodes[f"{level}_{step}"]
                rows[level].append(node(torch.cat([*rows[level], up_BC], dim=1)))
        if self.deep_supervision and self.training:
            return [head(node_BC) for head, node_BC in zip(self.heads, reversed(rows[0]))]
        return self.heads[0](rows[0][-1])  # type: ignore[no-any-return]
