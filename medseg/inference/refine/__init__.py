"""Refine a network's probabilities before they become labels.

A step is `(probabilities_CIJK, image_CIJK, geometry, *, options) -> probabilities_CIJK`. All are float32
tensors on one device and on the grid that the network saw, the image with the intensities that it saw. Over C
the probabilities sum to 1. A step returns a new tensor, and flipped axes give the flipped result.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from medseg.core.geometry import Geometry
from medseg.inference.refine.crf import crf

Step = Callable[..., Tensor]  # with its options bound

REFINE: dict[str, Callable[..., Tensor]] = {"crf": crf}

__all__ = ["REFINE", "apply_refine"]


def apply_refine(
    steps: Sequence[Step],
    probabilities_CIJK: Tensor,
    image_CIJK: Tensor,
    geometry: Geometry,
    *,
    overlapping: bool = False,
) -> Tensor:
    """Run the steps in order, each with its options bound, as `select` returns it.

    Args:
        steps: Entries of `REFINE`.
        probabilities_CIJK: (C, I, J, K) float32.
        image_CIJK: (channels, I, J, K), any float type.
        geometry: The grid of both.
        overlapping: Whether channels are regions that overlap: each is then refined against its complement,
            with an equal share of a step's `max_pairs`.
    """
    if not overlapping:
        image = image_CIJK.float()
        for step in steps:
            probabilities_CIJK = step(probabilities_CIJK, image, geometry)
        return probabilities_CIJK
    steps = [_share(step, len(probabilities_CIJK)) for step in steps]
    pairs = [torch.stack([1 - inside, inside]) for inside in probabilities_CIJK]
    return torch.stack([apply_refine(steps, pair, image_CIJK, geometry)[1] for pair in pairs])


def _share(step: Step, count: int) -> Step:
    """Return a step of which `count` together take as long as one."""
    limit = inspect.signature(step).parameters.get("max_pairs")
    return step if limit is None else partial(step, max_pairs=limit.default / count)
