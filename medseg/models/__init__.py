"""Networks: `(in_channels, out_channels, grid, *, options) -> nn.Module`.

A network takes (B, C, *spatial) of any size and returns (B, out_channels, *spatial), or a list of
tensors, finest first, when deep supervision is on and it is training. torch and MONAI are imported when
a network is built, not with this package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medseg.models.attention_unet import attention_unet
from medseg.models.deeplab import deeplab_v3, deeplab_v3_plus
from medseg.models.fcn import fcn
from medseg.models.fpn import fpn
from medseg.models.grid import Grid
from medseg.models.light_unet import light_unet
from medseg.models.mednext import mednext
from medseg.models.paper_unet import paper_unet
from medseg.models.residual_unet import residual_unet
from medseg.models.segformer import segformer
from medseg.models.segresnet import segresnet
from medseg.models.strided_unet import strided_unet
from medseg.models.swin_unetr import swin_unetr
from medseg.models.unet import unet
from medseg.models.unet_plus_plus import unet_plus_plus

MODELS: dict[str, Callable[..., Any]] = {
    "unet": unet,
    "strided_unet": strided_unet,
    "light_unet": light_unet,
    "residual_unet": residual_unet,
    "paper_unet": paper_unet,
    "attention_unet": attention_unet,
    "unet_plus_plus": unet_plus_plus,
    "fpn": fpn,
    "mednext": mednext,
    "segresnet": segresnet,
    "swin_unetr": swin_unetr,
    "fcn": fcn,
    "deeplab_v3": deeplab_v3,
    "deeplab_v3_plus": deeplab_v3_plus,
    "segformer": segformer,
}

__all__ = ["MODELS", "Grid"]
