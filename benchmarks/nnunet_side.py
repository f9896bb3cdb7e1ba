"""The peer's side of the ledger: nnU-Net v2 on the same cases, split and budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nnunet_env
from experiments import Experiment, Tree
from medseg_side import Failed

ENVIRONMENT = nnunet_env.DEFAULT
RECIPES: dict[str, Tree] = {"nnunet-own": {"version": "2.8.1"}, "nnunet-scaled": {"version": "2.8.1"}}


def run(
    experiment: Experiment, work: Path, calibrations: Path, goes_on: Callable[[], bool]
) -> dict[str, Any]:
    """Run an experiment, or go on with it, and return its figures."""
    raise Failed("not there yet")
