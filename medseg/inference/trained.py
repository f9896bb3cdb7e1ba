"""A model in memory, ready to predict, whatever software trained it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import nn

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume, canonical_axes, grid_on_axes
from medseg.data.plan import Plan
from medseg.data.preprocess import Placement, preprocess_image, target_shape
from medseg.data.settings import Data
from medseg.inference.locator import Locator
from medseg.inference.settings import Infer
from medseg.inference.trust.fit import Trust

Triple = tuple[int, int, int]
Blend = Callable[[Triple], torch.Tensor]  # window -> weights of its voxels


class Prepare(Protocol):
    """Preprocessing of models of other software."""

    def __call__(self, volume: Volume) -> tuple[NDArray[Any], Placement]:
        """Return the (C, I, J, K) array that the networks take, and how to get back."""

    def grid_shape(self, geometry: Geometry) -> Triple:
        """Return the (I, J, K) that a scan will have; cropping, which no header tells of, aside."""


@dataclass(frozen=True)
class TrainedModel:
    """A model in memory, in eval mode."""

    name: str
    data: Data
    plan: Plan
    infer: Infer
    networks: tuple[nn.Module, ...]
    sha256: str
    networks_sha256: str  # the same without how it is applied, which may be decided later
    prepare: Prepare | None = None  # preprocessing of models of other software
    blend: Blend | None = None  # how windows are weighed, where that is not `gaussian_weights`
    previous: TrainedModel | None = None  # its mask, one channel a label, is an input of this one
    trust: Trust | None = None  # None until calibrated
    locator: Locator | None = None

    @property
    def n_inputs(self) -> int:
        """Channels that the networks take: those of the image, and of a mask."""
        return len(self.data.channels) + (len(self.previous.data.labels) if self.previous else 0)

    def preprocess(self, volume: Volume) -> tuple[NDArray[Any], Placement]:
        """Return the (C, I, J, K) array that the networks take, and how to get back."""
        if self.prepare is None:
            return preprocess_image(volume, self.plan)
        return self.prepare(volume)

    def grid_shape(self, geometry: Geometry) -> Triple:
        """Return the (I, J, K) of a preprocessed scan, at most: cropping is not known from a header."""
        if self.prepare is not None:
            return self.prepare.grid_shape(geometry)
        canonical, spacing_mm = grid_on_axes(geometry, canonical_axes(geometry)), self.plan.spacing_mm
        if self.plan.dims == 2:
            spacing_mm = (*spacing_mm[:2], canonical.spacing_mm[2])
        return target_shape(canonical, spacing_mm)
