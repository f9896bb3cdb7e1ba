"""The recipe of a training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from medseg.core.settings import Count, Positive, Settings, Share

NotNegative = Annotated[float, Field(ge=0)]


def _read_switch(value: Any) -> Any:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value  # YAML 1.1: on, off


def _read_off(value: Any) -> Any:
    return "off" if value is False else value


class Train(Settings):
    """The recipe."""

    epochs: Count = 100
    iterations_per_epoch: Count = 100
    optimizer: str = "adamw"  # an entry of OPTIMIZERS
    optimizer_options: dict[str, Any] = Field(default={})
    learning_rate: Positive = 3e-3
    weight_decay: NotNegative = 1e-2
    schedule: Literal["cosine", "poly"] = "cosine"
    warmup_share: Share = 0.05
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99  # 0 switches it off
    clip_norm: Positive = 12.0
    supervision_weights: tuple[NotNegative, ...] = ()  # finest level first; none: 1/2^level (nnU-Net)
    foreground_share: Share = 1 / 3
    hard_cases: bool = False  # draw cases of high loss up to three times as often as those of low loss
    accumulate: Count = 1  # parts in which a batch passes the network: less memory, the same step
    checkpoint_activations: bool = False  # compute them again for the backward pass: less memory, 1/3 slower
    freeze_epochs: Annotated[int, Field(ge=0)] = 0  # at the start, in which the encoder stays as it is
    encoder_rate: Annotated[float, Field(gt=0, le=1)] = 1.0  # the encoder's share of the learning rate
    amp: Annotated[Literal["auto", "off", "bf16", "fp16"], BeforeValidator(_read_switch)] = "auto"
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(_read_switch)] = "auto"
    validate_every: Count = 10  # epochs
    validate_cases: Annotated[int, Field(ge=0)] = 8
    early_stop_epochs: Count | None = None
    # auto: where images hold many patches, also train what tells the fast mode where structures can be
    locator: Annotated[Literal["auto", "off"], BeforeValidator(_read_off)] = "auto"
