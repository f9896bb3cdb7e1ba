"""One fold as the training needs it: its cases, its network, and the job made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg.config import Config
from medseg.config.layers import flatten
from medseg.core.errors import ConfigError
from medseg.core.select import select
from medseg.data.lateral import choose_swaps
from medseg.data.loader import Patches, open_loader
from medseg.data.loading import output_names, region_classes
from medseg.data.plan import Plan
from medseg.data.sampling import weigh_cases
from medseg.data.settings import Data
from medseg.data.store import StoredCase
from medseg.data.worklog import Worklog
from medseg.inference.network import build_network
from medseg.inference.trained import TrainedModel
from medseg.losses import LOSSES, deep_supervised, per_region
from medseg.tracking.store import Tracker
from medseg.train.batch_norm import share_batch_norms
from medseg.train.distributed import is_joined
from medseg.train.loop import Job, Validate
from medseg.train.memory import checkpoint_blocks
from medseg.train.transfer import Ends, Moved, transfer
from medseg.train.validation import make_validation
from medseg.workflows.look import Look
from medseg.workflows.progress import Progress
from medseg.workflows.run_folder import RunFolder

# Settings that no weight depends on.
FREE: Any = {
    **dict.fromkeys(("workers", "infer", "summary", "licence", "expected"), True),
    **dict.fromkeys(("metrics", "nsd_tolerance_mm"), True),
    "train": {"locator"},
}


@dataclass(frozen=True)
class Fold:
    """One fold's data, as the training needs it."""

    number: int
    plan: Plan
    training: tuple[StoredCase, ...]
    validation: tuple[StoredCase, ...]

    def origin(self, config: Config) -> dict[str, Any]:
        """Return all that the weights depend on, flat, so that a change can be named."""
        settings = flatten(config.model_dump(mode="json", exclude=FREE))
        plan = {name: value for name, value in self.plan.to_json().items() if name != "reasons"}
        sides = {"training": self.training, "validation": self.validation}
        keys = {f"{side} case {case.id}": case.entry["key"] for side in sides for case in sides[side]}
        return {**settings, **flatten({"plan": plan}), **keys, "fold": self.number}


@dataclass(frozen=True)
class Task:
    """A fold to train, and who is told.

    Args:
        config, run, fold: What to train on.
        device: Where.
        share: (rank, world).
        progress: Told after each epoch.
        tracker: Gets the metrics of each epoch.
        max_minutes: Train for about this long instead of `train.epochs`.
        init_from: A model whose weights to start from.
        auto_shrink: Whether to pass a batch in more parts where memory runs out.
    """

    config: Config
    run: RunFolder
    fold: Fold
    device: torch.device
    share: tuple[int, int]
    progress: Progress
    tracker: Tracker
    max_minutes: float | None
    init_from: Path | None
    auto_shrink: bool

    @property
    def folder(self) -> Path:
        return self.run.fold(self.fold.number)


def load_fold(run: RunFolder, config: Config, number: int) -> Fold:
    """Return a fold of a preprocessed run.

    Raises:
        ConfigError: There is no such fold, or the run is not preprocessed.
    """
    splits = run.load_splits()
    if not 0 <= number < len(splits.folds):
        raise ConfigError(f"there is no fold {number}", hint=f"folds are 0 to {len(splits.folds) - 1}")
    training = tuple(run.case(name) for name in splits.training(number))
    validation = tuple(run.case(name) for name in splits.validation(number))
    return Fold(number, run.load_plan(), training, validation)


def name_ends(config: Config) -> Ends:
    """Return the names of a task's channels and of its network's outputs."""
    return Ends(tuple(config.data.channels), name_outputs(config.data))


def name_outputs(data: Data) -> tuple[str, ...]:
    """Return what each output of a network stands for: regions, or background and the labels."""
    return (*(() if data.regions else ("background",)), *output_names(data))


def label_names(config: Config) -> list[str]:
    """Return the names of the labels, by class."""
    return [config.data.labels[value] for value in sorted(config.data.labels)]


def make_network(
    config: Config, fold: Fold, device: torch.device, model: TrainedModel | None
) -> tuple[nn.Module, list[Moved]]:
    """Return the network before its first step, and what it took from a model."""
    torch.manual_seed(config.seed * 1_000_003 + 7919 * fold.number)
    ends = name_ends(config)
    network = build_network(config.model, fold.plan, len(ends.channels), len(ends.classes))
    moved = []
    if model:
        old = Ends(tuple(model.data.channels), name_outputs(model.data))
        build = partial(build_network, config.model, fold.plan)
        moved = transfer(model.networks[0].cpu(), network, old, ends, build)
    if is_joined():
        share_batch_norms(network)
    if config.train.checkpoint_activations:
        checkpoint_blocks(network)
    return network.to(device), moved


def make_job(
    config: Config,
    fold: Fold,
    device: torch.device,
    share: tuple[int, int],
    workers: int,
    look: Look | None = None,
) -> tuple[Job, Worklog]:
    """Return the fold's job, in float32 so far, and the log of its loader's workers.

    `look` watches the validation of one case.
    """
    worklog = Worklog(workers)
    batch = fold.plan.batch_size
    scores: dict[str, float] | None = {} if config.train.hard_cases else None
    names = [case.id for case in fold.training]
    patches = Patches(
        fold.training,
        fold.plan,
        config.augment,
        seed=config.seed,
        foreground_every=(_count_foreground(batch, config.train.foreground_share), batch),
        extra=[build_extra(step.name, step.options) for step in config.augment.extra],
        swap=choose_swaps(config.augment, label_names(config)),
        worklog=worklog,
        weights=None if scores is None else lambda epoch: weigh_cases(scores, names),
    )
    batches = open_loader(patches, batch_size=batch, workers=workers, share=share, device=device)
    loss = select("loss", LOSSES, config.loss.name, config.loss.options)
    regions = region_classes(config.data)
    if regions:
        loss = per_region(loss, regions)
    counts = Counter(value for case in fold.training for value in case.points)
    labels = config.data.labels
    return Job(
        settings=config.train,
        batches=batches,
        loss=deep_supervised(loss, config.train.supervision_weights or None),
        device=device,
        dtype=torch.float32,
        dims=fold.plan.dims,
        seed=config.seed,
        validate=_make_validation(config, fold, fold.validation, share, look),
        validate_training=_make_validation(config, fold, fold.training, share),
        case_scores=scores,
        holders={labels[value]: counts[value] for value in sorted(labels)},
    ), worklog


def refuse_uneven(batch: int, parts: int, world: int) -> None:
    """Refuse parts that are not the same on all ranks, which would then wait for one another for ever.

    Raises:
        ConfigError: BATCH_UNEVEN.
    """
    if parts > 1 and batch % world:
        raise ConfigError(
            f"a batch of {batch} in {parts} parts is not the same for {world} processes",
            hint="set grid.batch_size to a multiple of the number of processes, or train.accumulate=1",
            code="BATCH_UNEVEN",
        )


def _make_validation(
    config: Config,
    fold: Fold,
    cases: tuple[StoredCase, ...],
    share: tuple[int, int],
    look: Look | None = None,
) -> Validate | None:
    return make_validation(
        cases,
        fold.plan,
        output_names(config.data),
        count=config.train.validate_cases,
        overlap=config.infer.overlap,
        regions=region_classes(config.data),
        share=share,
        look=None if look is None else look.note,
    )


def _count_foreground(batch: int, share: float) -> int:
    """Return how many samples of a batch are centred on foreground: at least one, unless none is wanted."""
    return max(1, round(batch * share)) if share else 0


def build_extra(name: str, options: dict[str, object]) -> Callable[[], object]:
    """Return a builder of a MONAI dictionary transform; `keys` defaults to the image alone."""
    if ":" not in name:
        raise ConfigError(
            f"augment.extra names `{name}`",
            hint="for example monai.transforms:RandGibbsNoised",
            code="UNKNOWN_NAME",
        )
    return select("transform", {}, name, {"keys": ["image"], **options})
