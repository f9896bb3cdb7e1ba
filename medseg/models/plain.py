"""The frame behind `paper_unet`: max pooling, ReLU, no norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.blocks import DROPOUT, MAX_POOL, convolve, upsample
from medseg.models.grid import Grid


class PlainUNet(nn.Module):
    """U-Net with two convolutions and ReLUs per level (Ronneberger et al. 2015, fig. 1).

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: (levels,) channels, finest first.
        dropout: Probability at the end of the contracting path; 0 builds no dropout layer.
        upsampling: "transposed" or "linear".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        grid: Grid,
        *,
        features: Sequence[int],
        dropout: float,
        upsampling: str,
    ) -> None:
        super().__init__()
        dims = grid.dims
        self.encoder = nn.ModuleList(
            _convolve_twice(inner, outer, kernel)
            for inner, outer, kernel in zip((in_channels, *features), features, grid.kernels)
        )
        self.pools = nn.ModuleList(MAX_POOL[dims](stride, stride) for stride in grid.strides[1:])
        self.dropout = DROPOUT[dims](dropout) if dropout else nn.Identity()
        pairs = list(zip(features[1:], features, grid.kernels, grid.strides[1:]))
        self.ups = nn.ModuleList(upsample(*pair, kind=upsampling, bias=True) for pair in pairs)
        self.decoder = nn.ModuleList(_convolve_twice(2 * fine, fine, kernel) for _, fine, kernel, _ in pairs)
        self.head = convolve(features[0], out_channels, (1,) * dims, bias=True)
        self.apply(_initialize)

    def forward(self, image_BC: Tensor) -> Tensor:
        skips = [self.encoder[0](image_BC)]
        for pool, stage in zip(self.pools, list(self.encoder)[1:]):
            skips.append(stage(pool(skips[-1])))
        below_BC = self.dropout(skips.pop())
        for level in reversed(range(len(self.decoder))):
            both_BC = torch.cat([skips[level], self.ups[level](below_BC)], dim=1)
            below_BC = self.decoder[level](both_BC)
        return self.head(below_BC)  # type: ignore[no-any-return]


def _convolve_twice(inner: int, outer: int, kernel: Sequence[int]) -> nn.Module:
    return nn.Sequential(
        convolve(inner, outer, kernel, bias=True),
        nn.ReLU(inplace=True),
        convolve(outer, outer, kernel, bias=True),
        nn.ReLU(inplace=True),
    )


def _initialize(module: nn.Module) -> None:
    """Draw weights with standard deviation sqrt(2 / inputs) (Ronneberger et al. 2015, sec. 3).

    A convolution that no ReLU follows halves that variance, else the logits grow with every level.
    """
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
