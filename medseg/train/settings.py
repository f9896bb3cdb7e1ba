"""The recipe of a training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from medseg.core.settings import Count, Positive, Settings, Share


def _read_off(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


class Train(Settings):
    """The recipe."""

    epochs: Count = 100
    iterations_per_epoch: Count = 100
    optimizer: str = "adamw"  # an entry of OPTIMIZERS
    optimizer_options: dict[str, Any] = Field(default={})
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    schedule: Literal["cosine", "poly"] = "cosine"
    warmup_share: Share = 0.05
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99  # 0 switches it off
    clip_norm: Positive = 12.0
    foreground_share: Share = 1 / 3
    amp: Annotated[Literal["auto", "off", "bf16", "fp16"], BeforeValidator(_read_off)] = "auto"
    validate_every: Count = 10  # epochs
    validate_cases: Annotated[int, Field(ge=0)] = 8
    early_stop_epochs: Count | None = None
