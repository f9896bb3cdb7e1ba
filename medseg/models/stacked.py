"""The frame of nnU-Net's own networks: any number of convolutions a level, both ways.

`unet` and `residual_unet` have one fixed number each. Biases of convolutions before a norm are left out: the
norm takes a constant away again. Those of the transposed convolutions have no norm behind them and stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.models.blocks import ConvNorm, upsample
from medseg.models.decoder import Decoder
from medseg.models.grid import Grid


class StackedEncoder(nn.Module):
    """Plain convolutions; the first of a level strides.

    Args:
        in_channels: Channels of the image.
        grid: Strides and kernels of the levels.
        features: (levels,) channels, finest first.
        convolutions: (levels,) how many, each one or more.
    """

    def __init__(
        self, in_channels: int, grid: Grid, *, features: Sequence[int], convolutions: Sequence[int]
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            _stack(inner, outer, kernel, count, stride)
            for inner, outer, kernel, count, stride in zip(
                (in_channels, *features), features, grid.kernels, convolutions, grid.strides
            )
        )

    def forward(self, image_BC: Tensor) -> list[Tensor]:
        """Return the features of every level, finest first."""
        levels = []
        for stage in self.stages:
            image_BC = stage(image_BC)
            levels.append(image_BC)
        return levels


class StackedUNet(nn.Module):
    """U-Net with transposed convolutions and a stack of plain ones per decoder level; one head.

    Args:
        encoder: Gives one map per level, finest first.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: (levels,) channels, finest first.
        convolutions: (levels - 1,) of the decoder, finest first.
    """

    def __init__(
        self,
        encoder: nn.Module,
        out_channels: int,
        grid: Grid,
        *,
        features: Sequence[int],
        convolutions: Sequence[int],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        pairs = list(zip(features[1:], features, grid.kernels, grid.strides[1:]))
        self.decoder = Decoder(
            (upsample(*pair, kind="transposed", bias=True) for pair in pairs),
            (
                _stack(2 * fine, fine, kernel, count)
                for (_, fine, kernel, _), count in zip(pairs, convolutions)
            ),
            features=features,
            out_channels=out_channels,
            dims=grid.dims,
            deep_supervision=False,
        )

    def forward(self, image_BC: Tensor) -> Tensor:
        return self.decoder(self.encoder(image_BC))  # type: ignore[no-any-return]


def _stack(
    inner: int, outer: int, kernel: Sequence[int], count: int, stride: Sequence[int] | None = None
) -> nn.Sequential:
    first = ConvNorm(inner, outer, kernel, stride)
    return nn.Sequential(first, *(ConvNorm(outer, outer, kernel) for _ in range(count - 1)))
