"""A whole task as one typed, frozen value: the rooms' sections side by side.

A pipeline (`pipelines/<task>.py`) fills the sections that describe the task; a YAML file or
`--set key=value` changes what one run needs. Names of models, losses and steps are checked by
`select` against the rooms' dicts; here only shapes and ranges are checked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from medseg.core.settings import Builder, Count, Positive, Settings
from medseg.data.settings import Augment, Data, Grid, Split
from medseg.inference.settings import Infer
from medseg.train.settings import Train


class Config(Settings):
    """A whole task; see `pipelines/` for filled ones."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    summary: str
    licence: str = ""
    expected: str = ""  # the score a reader should expect, and from which command
    data: Data
    split: Split = Split()
    grid: Grid = Grid()
    model: Builder = Builder(name="unet")
    loss: Builder = Builder(name="dice_focal")
    augment: Augment = Augment()
    train: Train = Train()
    infer: Infer = Infer()
    nsd_tolerance_mm: Positive = 1.0
    metrics: dict[str, dict[str, Any]] = Field(default={})  # besides: {lesions: {min_volume_mm3: 3}}
    seed: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    memory_gb: Positive | None = None  # None: what the device has
    threads: Count | None = None  # None: one per core
    workers: Annotated[int, Field(ge=0)] | None = None  # preprocessing processes; None: one per core
