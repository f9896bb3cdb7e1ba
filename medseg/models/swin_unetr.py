"""Swin UNETR: attention in windows, then a convolutional decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.core.errors import ConfigError
from medseg.models.features import Size, pick
from medseg.models.grid import Grid

if TYPE_CHECKING:
    from torch import nn

WIDTHS = {"nano": 12, "small": 24, "base": 48, "large": 96}  # multiples of 12; base is the paper's
WINDOWS = {"nano": 4, "small": 7, "base": 7, "large": 7}  # 7 in the paper; 4 fits small patches
TOTAL_STRIDE = 32  # a patch of 2, then four times merged by 2


def swin_unetr(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    size: Size | None = None,
    feature_size: int | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """Build MONAI's SwinUNETR (Hatamizadeh et al. 2022); 62 M parameters in 3D at `base`.

    Its five halvings of every axis are its own: strides and channels of the plan are not used, and axes
    are padded to multiples of 32. It has no deep supervision. Its norms have weights, which MONAI's default
    has not: the ONNX exporter needs them.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Number of axes; its kernels must not keep slices apart.
        size: Named width and window; None is `base`.
        feature_size: Channels of the finest level, a multiple of 12; None: those of `size`.
        dropout: Probability in the transformer's layers.

    Raises:
        ConfigError: `GRID_ANISOTROPIC` where the plan has a kernel of one voxel along an axis,
            `FEATURES_INVALID` for a feature size that its attention heads cannot share.
    """
    from monai.networks.nets import SwinUNETR

    from medseg.models.padding import PadToStride

    if 1 in (edge for kernel in grid.kernels for edge in kernel):
        raise ConfigError(
            f"`swin_unetr` mixes slices at once, the plan's kernels {grid.kernels} do not",
            hint="use `unet`, or resample to nearly cubic voxels with grid.spacing_mm",
            code="GRID_ANISOTROPIC",
        )
    width = feature_size or pick("size", WIDTHS, size or "base")
    window = pick("size", WINDOWS, size or "base")
    if width % 12:
        raise ConfigError(f"a feature size of {width}", hint="give a multiple of 12", code="FEATURES_INVALID")
    net = SwinUNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        feature_size=width,
        window_size=window,
        drop_rate=dropout,
        norm_name=("instance", {"affine": True}),
        spatial_dims=grid.dims,
    )
    return PadToStride(net, (TOTAL_STRIDE,) * grid.dims)
