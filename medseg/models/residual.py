"""The frame behind `residual_unet` and `light_unet`: a residual encoder and a plain, thin decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.blocks import ConvNorm, ResidualBlock, convolve, upsample
from medseg.models.encoder_decoder import initialize
from medseg.models.grid import Grid


class ResidualEncoder(nn.Module):
    """A stem convolution, then residual stages; the first block of a stage strides.

    Args:
        in_channels: Channels of the image.
        grid: Strides and kernels of the levels.
        features: (levels,) channels, finest first.
        blocks: (levels,) residual blocks; 0 is possible at level 0, which then is the stem alone.
        dropout: Probability after the first convolution of each block.
    """

    def __init__(
        self,
        in_channels: int,
        grid: Grid,
        *,
        features: Sequence[int],
        blocks: Sequence[int],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = ConvNorm(in_channels, features[0], grid.kernels[0], dropout=dropout)
        self.stages = nn.ModuleList()
        inner = features[0]
        for outer, kernel, stride, count in zip(features, grid.kernels, grid.strides, blocks):
            steps = [stride, *[(1,) * grid.dims] * (count - 1)][:count]
            widths = [inner, *[outer] * (count - 1)]
            self.stages.append(
                nn.Sequential(
                    *(
                        ResidualBlock(width, outer, kernel, step, dropout=dropout)
                        for width, step in zip(widths, steps)
                    )
                )
            )
            inner = outer

    def forward(self, image_BC: Tensor) -> list[Tensor]:
        """Return the features of every level, finest first."""
        below_BC = self.stem(image_BC)
        levels = []
        for stage in self.stages:
            below_BC = stage(below_BC)
            levels.append(below_BC)
        return levels


class ResidualUNet(nn.Module):
    """U-Net with a residual encoder and one convolution per decoder level.

    Args:
        encoder: Gives one map per level, finest first.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: (levels,) channels, finest first.
        upsampling: "transposed" or "linear".
        deep_supervision: Return a list while training, of all levels but the two coarsest.
    """

    def __init__(
        self,
        encoder: nn.Module,
        out_channels: int,
        grid: Grid,
        *,
        features: Sequence[int],
        upsampling: str,
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.encoder = encoder
        pairs = list(zip(features[1:], features, grid.kernels, grid.strides[1:]))
        self.ups = nn.ModuleList(upsample(*pair, upsampling) for pair in pairs)
        self.decoder = nn.ModuleList(ConvNorm(2 * fine, fine, kernel) for _, fine, kernel, _ in pairs)
        supervised = max(1, grid.levels - 2) if deep_supervision else 1
        self.heads = nn.ModuleList(
            convolve(channels, out_channels, (1,) * grid.dims, bias=True)
            for channels in features[:supervised]
        )
        self.apply(initialize)

    def forward(self, image_BC: Tensor) -> Tensor | list[Tensor]:
        *skips, below_BC = self.encoder(image_BC)
        is_list = self.deep_supervision and self.training
        outputs = [] if skips else [self.heads[0](below_BC)]
        for level in reversed(range(len(skips))):
            both_BC = torch.cat([self.ups[level](below_BC), skips[level]], dim=1)
            below_BC = self.decoder[level](both_BC)
            if level < (len(self.heads) if is_list else 1):
                outputs.insert(0, self.heads[level](below_BC))
        return outputs if is_list else outputs[0]
