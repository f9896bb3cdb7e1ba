"""The base of all settings: frozen, unknown keys refused.

Each room owns the section it reads (`data/settings.py`, `train/settings.py`, ...), free of heavy
imports, so that it can be used alone with its defaults; `config` composes them and knows YAML.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Builder(Settings):
    """An entry of one of the rooms' dicts with its keyword-only options."""

    name: str
    options: dict[str, Any] = Field(default={})
