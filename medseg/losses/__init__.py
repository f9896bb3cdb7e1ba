"""Losses: `(logits_BC…, label_B…, *, options) -> scalar tensor`.

`logits_BC` is (B, C, *spatial), `label_B` is (B, *spatial) with integer classes. To add one: write
`medseg/losses/<name>.py` with a function of that shape, add a line below, run
`pytest tests/losses/test_losses_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from medseg.losses.cross_entropy import cross_entropy
from medseg.losses.deep import deep_supervised
from medseg.losses.dice import dice
from medseg.losses.dice_ce import dice_ce
from medseg.losses.dice_focal import dice_focal
from medseg.losses.focal import focal

LOSSES: dict[str, Callable[..., Tensor]] = {
    "dice_focal": dice_focal,
    "dice_ce": dice_ce,
    "dice": dice,
    "focal": focal,
    "cross_entropy": cross_entropy,
}

__all__ = ["LOSSES", "deep_supervised"]
