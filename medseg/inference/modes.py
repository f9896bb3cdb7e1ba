"""How thoroughly a model is applied: what it says itself, faster, or more accurately."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.core.errors import ConfigError
from medseg.core.select import suggest
from medseg.inference.nnunet.preparation import follow
from medseg.inference.trained import TrainedModel
from medseg.inference.windows import Box, find_content


@dataclass(frozen=True)
class Mode:
    """What changes against the model's own settings.

    Args:
        most_overlap, least_overlap: Bounds of the overlap.
        mirror: Whether to average over the plan's mirror axes; None: as the model says.
        networks: How many folds' networks predict, the first of them; None: all.
        is_located: Whether windows lie only where the structures can be.
    """

    most_overlap: float = 1.0
    least_overlap: float = 0.0
    mirror: bool | None = None
    networks: int | None = None
    is_located: bool = False


MODES: Mapping[str, Mode] = {
    "exact": Mode(),
    "fast": Mode(most_overlap=0.25, mirror=False, networks=1, is_located=True),
    "accurate": Mode(least_overlap=0.5, mirror=True),
}


def apply_mode(model: TrainedModel, name: str) -> tuple[TrainedModel, Mode]:
    """Return the model as the mode applies it, to the first stage of a cascade too, and the mode.

    Raises:
        ConfigError: UNKNOWN_NAME.
    """
    if name not in MODES:
        raise ConfigError(f"no mode is called `{name}`", hint=suggest(name, MODES), code="UNKNOWN_NAME")
    mode, own = MODES[name], model.infer
    changes = {
        "overlap": max(mode.least_overlap, min(mode.most_overlap, own.overlap)),
        # Without axes to mirror over the setting says nothing, so it stays what it was.
        "mirror": own.mirror if mode.mirror is None or not model.plan.mirror_axes else mode.mirror,
    }
    if model.previous is not None:
        model = follow(model, apply_mode(model.previous, name)[0], "torch")
    return replace(
        model, infer=own.model_copy(update=changes), networks=model.networks[: mode.networks]
    ), mode


def describe_effort(model: TrainedModel, mode: Mode) -> dict[str, Any]:
    """Return what decides a mask besides the `infer` settings: how many networks, and where they look."""
    where = "everywhere"
    if mode.is_located:
        locator = model.locator
        where = f"locator {locator.sha256[:12]}" if locator and locator.is_trusted else "content"
    return {"networks": len(model.networks), "where": where}


def find_box(model: TrainedModel, image_CIJK: NDArray[Any]) -> Box | None:
    """Return where structures can be in a preprocessed image.

    That is what the model's locator finds, with its margin. Where it finds nothing, misses too much on
    held-out cases, or the model has none, it is all that is not as dark as air; None: everywhere.
    """
    locator = model.locator
    if locator is not None and locator.is_trusted:
        box = locator.find(image_CIJK, model.plan.spacing_mm)
        if box is not None:
            return box
    return find_content(torch.from_numpy(np.ascontiguousarray(image_CIJK)))
