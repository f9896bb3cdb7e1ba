"""A network without weights: what shapes it has, at no cost in memory and hardly any in time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def sketch(build: Callable[[], nn.Module]) -> nn.Module:
    """Return the network that `build` makes, on the meta device; torch's global seed stays where it was."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build()
        except RuntimeError:  # it reads a number while it is built, as MONAI's SwinUNETR does
            return build().to("meta")
