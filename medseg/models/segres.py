"""The frame behind `segresnet`, made of MONAI's SegResBlock.

MONAI's own frame takes strides from a resolution in mm, which cannot say that an axis stops shrinking.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from monai.networks.nets.segresnet_ds import SegResBlock
from torch import Tensor, nn

from medseg.models.blocks import convolve, interpolate
from medseg.models.decoder import Decoder
from medseg.models.grid import Grid

GROUPS = 8  # Myronenko 2018, sec. 2.1


class SegRes(nn.Module):
    """Encoder of residual blocks, and a decoder with one block per level that adds the skips.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: (levels,) channels, finest first.
        blocks: (levels,) residual blocks of the encoder.
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
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        one = (1,) * grid.dims
        kernels, strides = grid.kernels, grid.strides
        self.stem = convolve(in_channels, features[0], kernels[0])
        self.encoder = nn.ModuleList(
            nn.Sequential(*(_block(count, kernel) for _ in range(depth)))
            for count, kernel, depth in zip(features, kernels, blocks)
        )
        pairs = list(zip(features[1:], features, kernels, strides[1:]))
        self.downs = nn.ModuleList(
            convolve(fine, coarse, kernel, stride) for coarse, fine, kernel, stride in pairs
        )
        self.decoder = Decoder(
            (
                nn.Sequential(convolve(coarse, fine, one), interpolate(stride))
                for coarse, fine, _, stride in pairs
            ),
            (_block(fine, kernel) for _, fine, kernel, _ in pairs),
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


def _block(count: int, kernel: Sequence[int]) -> nn.Module:
    norm = ("GROUP", {"num_groups": gcd(GROUPS, count)})
    block: nn.Module = SegResBlock(len(kernel), count, norm, tuple(kernel), ("relu", {"inplace": True}))
    return block
