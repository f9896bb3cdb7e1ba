"""How a trained model is applied."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medseg.core.settings import Builder, Settings


class Infer(Settings):
    """How a trained model is applied."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mirror: bool = False  # average over the grid's mirror axes: 2^axes times the cost
    postprocess: tuple[Builder, ...] = ()
