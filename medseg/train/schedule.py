"""Learning rates over a run of known length."""

from __future__ import annotations

import math
from collections.abc import Callable

Curve = Callable[[float], float]

SCHEDULES: dict[str, Curve] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "poly": lambda progress: (1 - progress) ** 0.9,  # nnU-Net, DeepLab
}


def rate_at(step: int, total: int, *, schedule: str, warmup_share: float) -> float:
    """Return the factor on the learning rate at `step` of `total`: linear warm-up, then the curve."""
    warmup = round(warmup_share * total)
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[schedule]((step - warmup) / max(1, total - warmup))
