"""Typed settings: the schema, its layers and the pipelines that fill it."""

from medseg.config.schema import Config
from medseg.core.settings import Builder
from medseg.data.settings import Augment, Channel, Data, Grid, Region, SeriesRule, Split
from medseg.inference.settings import Infer
from medseg.train.settings import Train

__all__ = [
    "Augment",
    "Builder",
    "Channel",
    "Config",
    "Data",
    "Grid",
    "Infer",
    "Region",
    "SeriesRule",
    "Split",
    "Train",
]
