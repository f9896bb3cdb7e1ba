"""Networks: `(in_channels, out_channels, grid, *, options) -> nn.Module`.

A network takes (B, C, *spatial) of any size and returns (B, out_channels, *spatial), or a list of
tensors, finest first, when deep supervision is on and it is training. torch and MONAI are imported when
a network is built, not with this package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medseg.models.deeplab import deeplab_v3, deeplab_v3_plus
from medseg.models.fcn import fcn
from medseg.models.grid import Grid
from medseg.models.segformer import segformer
from medseg.models.strided_unet import strided_unet
from medseg.models.unet import unet

MODELS: dict[str, Callable[..., Any]] = {
    "unet": unet,
    "strided_unet": strided_unet,
    "fcn": fcn,
    "deeplab_v3": deeplab_v3,
    "deeplab_v3_plus": deeplab_v3_plus,
    "segformer": segformer,
}

__all__ = ["MODELS", "Grid"]
