"""What the ledger runs: experiments as plain data, in lists by the table they fill, and their identity.

An experiment's id is a hash of what its figure depends on: side, resolved settings, seed, fold, budget and
threads. A changed default makes a new id, so an old figure is never shown as that of the present recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

Tree = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
HIPPOCAMPUS, NUCLEI, SARCOMA = "hippocampus_mr", "nuclei_fluorescence", "sarcoma_pet"
DATA = {HIPPOCAMPUS: "hippocampus", NUCLEI: "nuclei", SARCOMA: "sts_pet"}  # folders below $MEDSEG_DATA
SEEDS = (0, 1, 2)
FREE = ("workers", "summary", "licence", "expected")  # settings that change no result
# Settings younger than the first result -> the value that means "as before"; there they enter no id.
ADDED: dict[str, Any] = {"infer.refine": [], "train.locator": "auto", "metrics": {}}


@dataclass(frozen=True)
class Experiment:
    """One training and what is held out for it.

    Args:
        name: The row of the table.
        budget_cpu_s: CPU seconds of the whole process tree, from the scans to the figures.
        side: medseg, nnunet-own (its trainer as it is) or nnunet-scaled (see `nnunet_side.py`).
        pipeline: A file of `pipelines/`, without its suffix.
        settings: `--set` of medseg, key -> value in YAML.
        seed: Of the training; the split is the same for all.
        fold: Held out.
        threads: Of torch.
    """

    name: str
    budget_cpu_s: int
    side: str = "medseg"
    pipeline: str = HIPPOCAMPUS
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    fold: int = 0
    threads: int = 1

    @property
    def title(self) -> str:
        """The experiment in a few words, as `--only` sees it."""
        return f"{self.pipeline} {self.side} {self.name} {self.budget_cpu_s}s seed{self.seed} fold{self.fold}"

    def overrides(self) -> list[str]:
        """Return the `--set` arguments of medseg."""
        fixed = {"device": "cpu", "threads": self.threads, "workers": 1, "seed": self.seed, "split.seed": 0}
        return [f"{key}={value}" for key, value in {**fixed, **self.settings}.items()]


def over_seeds(name: str, budget_cpu_s: int, settings: Mapping[str, Any] | None = None) -> list[Experiment]:
    """Return an experiment on hippocampus for each seed."""
    return [Experiment(name, budget_cpu_s, settings=settings or {}, seed=seed) for seed in SEEDS]


# ---- the tables ---------------------------------------------------------------------------------

# A network's settings, and the Dice it must reach at 1200 CPU-seconds.
NETWORKS: dict[str, tuple[dict[str, Any], float | None]] = {
    "unet": ({"model.name": "unet", "model.options": "{size: small}"}, None),
    "residual_unet": ({"model.name": "residual_unet", "model.options": "{size: small}"}, None),
    "deeplab_v3_plus": ({"model.name": "deeplab_v3_plus", "model.options": "{size: small}"}, 0.84),
    "segformer": (
        {"model.name": "segformer", "model.options": "{size: small, fine_channels: 8}"},
        0.84,
    ),
}
# Each against the default; what equals the default is not run twice.
VARIANTS: dict[str, dict[str, Any]] = {
    "EMA off": {"train.ema_decay": 0},
    "deep supervision off": {"model.options.deep_supervision": "false"},
    "Muon": {"train.optimizer": "muon"},
    "AdamW": {"train.optimizer": "adamw"},
    "Dice + focal": {"loss.name": "dice_focal"},
    "Dice + CE": {"loss.name": "dice_ce"},
}
# nnU-Net's, by side; a plan of {} leaves its own as it is.
RECIPES: dict[str, Tree] = {
    "nnunet-own": {"version": "2.8.1", "scaled": False, "mirror": True, "bf16": False, "plan": {}},
    "nnunet-scaled": {
        "version": "2.8.1",
        "scaled": True,
        "mirror": False,
        "bf16": True,
        "plan": {"features": [16, 32, 64, 128], "batch_size": 2},
    },
}
SIDES = ("medseg", *RECIPES)
QUALITY_TARGETS = {2400: 0.872, 960: 0.866}  # mean held-out Dice
PEER_BUDGETS = (600, 1200, 2400)
TASK_TARGETS = {NUCLEI: 0.92, SARCOMA: 0.75}
TASK_LIMIT_CPU_S = 1200  # a fold is planned for half of that, and counts up to it

QUALITY = [run for budget in QUALITY_TARGETS for run in over_seeds("default", budget)]
LONG = [Experiment("default", 7200)]  # two cores for an hour
PEER = [Experiment("default", budget, side=side) for side in SIDES for budget in PEER_BUDGETS]
COMPARED = [Experiment(name, 1200, settings=settings) for name, (settings, _) in NETWORKS.items()]
TASKS = [
    Experiment("default", 600, pipeline=pipeline, fold=fold) for pipeline in TASK_TARGETS for fold in range(5)
]
ABLATION = [
    *over_seeds("default", 600),
    *(run for name, settings in VARIANTS.items() for run in over_seeds(name, 600, settings)),
]
LINES = {
    "quality": QUALITY,
    "peer": PEER,
    "networks": COMPARED,
    "tasks": TASKS,
    "ablation": ABLATION,
    "long": LONG,
}


def queue() -> list[Experiment]:
    """Return all experiments in the order they are run."""
    return [experiment for line in LINES.values() for experiment in line]


# ---- identity -----------------------------------------------------------------------------------


def resolve(experiment: Experiment) -> Tree:
    """Return the settings of a medseg experiment, resolved, without those that change no result.

    Raises:
        MedsegError: This version has no such setting or value.
    """
    from medseg.config.layers import resolve as lay

    config = lay(find(experiment.pipeline), None, experiment.overrides())
    tree: Tree = config.model_dump(mode="json", exclude=set(FREE))
    del tree["train"]["epochs"]  # follows from the budget
    for name, before in ADDED.items():
        *sections, key = name.split(".")
        section = tree
        for part in sections:
            section = section[part]
        if section[key] == before:
            del section[key]
    return tree


@cache
def find(pipeline: str) -> Any:
    """Return the settings of a pipeline of this tree, installed or not."""
    from medseg.config.pipelines import find_pipeline

    return find_pipeline(str(pipeline_file(pipeline)))


def pipeline_file(pipeline: str) -> Path:
    """Return the file of a pipeline."""
    return ROOT / "pipelines" / f"{pipeline}.py"


def describe(experiment: Experiment) -> Tree:
    """Return all that an experiment's figure depends on, as plain data.

    Raises:
        MedsegError: See `resolve`.
    """
    common: Tree = {
        "side": experiment.side,
        "pipeline": experiment.pipeline,
        "budget_cpu_s": experiment.budget_cpu_s,
        "seed": experiment.seed,
        "fold": experiment.fold,
        "threads": experiment.threads,
    }
    if experiment.side == "medseg":
        return {**common, "config": resolve(experiment)}
    return {**common, "config": RECIPES[experiment.side]}


def id_of(description: Mapping[str, Any]) -> str:
    """Return the id: twelve hex digits of the description's SHA-256, whatever the order of its keys."""
    return hash_of(description)[:12]


def hash_of(value: Any) -> str:
    """Return the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def unique(experiments: Iterable[Experiment]) -> dict[str, Experiment]:
    """Return experiments by id, in order, each once; those this version cannot run are left out."""
    from medseg.core.errors import MedsegError

    found: dict[str, Experiment] = {}
    for experiment in experiments:
        try:
            found.setdefault(id_of(describe(experiment)), experiment)
        except MedsegError:
            continue
    return found
