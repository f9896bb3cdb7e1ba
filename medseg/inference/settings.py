"""How a trained model is applied."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from medseg.core.settings import Builder, Settings


def _read_off(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


class Infer(Settings):
    """How a trained model is applied."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mirror: bool = False  # average over the grid's mirror axes: 2^axes times the cost
    refine: tuple[Builder, ...] = ()  # of probabilities, before they become labels; see `refine`
    postprocess: tuple[Builder, ...] = ()
    # auto: where `postprocess` is empty, steps are chosen label by label on held-out cases; see `choice`
    postprocess_choice: Annotated[Literal["auto", "off"], BeforeValidator(_read_off)] = "auto"
