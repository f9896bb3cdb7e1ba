"""The frame behind `residual_unet` and `light_unet`: a residual encoder and a plain, thin decoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import ConvNorm, ResidualBlock, initialize, upsample
from medseg.models.decoder import Decoder
from medseg.models.grid import Grid


class ResidualEncoder(nn.Module):
    """A stem convolution, then residual stages; the first block of a stage strides.

    Args:
        in_channels: Channels of the image.
        grid: Strides and kernels of the levels.
        features: (levels,) channels, finest first.
        blocks: (levels,) residual blocks; 0 is possible at level 0, which then is the stem alone.
        dropout: Probability after the first convolution of each block.

    Raises:
        ConfigError: `BLOCKS_INVALID` for a level below the first without a block.
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
        if min(blocks) < 0 or 0 in blocks[1:]:
            raise ConfigError(
                f"{tuple(blocks)} residual blocks per level",
                hint="each level needs one block or more",
                code="BLOCKS_INVALID",
            )
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
        self.encoder = encoder
        pairs = list(zip(features[1:], features, grid.kernels, grid.strides[1:]))
        self.decoder = Decoder(
            (upsample(*pair, kind=upsampling) for pair in pairs),
            (ConvNorm(2 * fine, fine, kernel) for _, fine, kernel, _ in pairs),
            features=features,
            out_channels=out_channels,
            dims=grid.dims,
            deep_supervision=deep_supervision,
        )
        self.apply(initialize)

    def forward(self, image_BC: Tensor) -> Tensor | list[Tensor]:
        return self.decoder(self.encoder(image_BC))  # type: ignore[no-any-return]
