"""Losses: `(logits_BC…, label_B…, *, options) -> scalar tensor`.

`logits_BC` is (B, C, *spatial), `label_B` is (B, *spatial) with integer classes. To add one: write
`medseg/losses/<name>.py` with a function of that shape, add a line below, run
`pytest tests/losses/test_losses_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from medseg.losses.bce_dice import bce_dice
from medseg.losses.boundary import boundary
from medseg.losses.cldice import cldice
from medseg.losses.component_dice_ce import component_dice_ce
from medseg.losses.cross_entropy import cross_entropy
from medseg.losses.deep import deep_supervised
from medseg.losses.dice import dice
from medseg.losses.dice_ce import dice_ce
from medseg.losses.dice_focal import dice_focal
from medseg.losses.dice_topk import dice_topk
from medseg.losses.focal import focal
from medseg.losses.focal_tversky import focal_tversky
from medseg.losses.generalized_dice import generalized_dice
from medseg.losses.hausdorff_dt import hausdorff_dt
from medseg.losses.regions import per_region
from medseg.losses.tversky import tversky

LOSSES: dict[str, Callable[..., Tensor]] = {
    "dice_focal": dice_focal,
    "dice_ce": dice_ce,
    "dice_topk": dice_topk,
    "bce_dice": bce_dice,
    "dice": dice,
    "generalized_dice": generalized_dice,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
    "focal": focal,
    "cross_entropy": cross_entropy,
    "component_dice_ce": component_dice_ce,
    "boundary": boundary,
    "hausdorff_dt": hausdorff_dt,
    "cldice": cldice,
}

__all__ = ["LOSSES", "deep_supervised", "per_region"]
