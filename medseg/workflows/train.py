"""train: one fold from the store to RUN/model; killed at any moment, the same command goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from medseg.config import Config
from medseg.core.errors import ConfigError
from medseg.core.files import make_folder, read_json, sha256_of, sha256_of_file, write_csv, write_json
from medseg.core.select import select
from medseg.data.loader import Patches, open_loader
from medseg.data.loading import output_names, region_classes
from medseg.data.plan import Plan
from medseg.data.store import StoredCase
from medseg.inference.model import SUMS, find_model, load_model
from medseg.inference.network import build_network, choose_device, copy_weights
from medseg.losses import LOSSES, deep_supervised, per_region
from medseg.models import MODELS
from medseg.postprocess import POSTPROCESS
from medseg.tracking.store import Tracker
from medseg.train.budget import epochs_within
from medseg.train.distributed import process_group
from medseg.train.loop import Job, train
from medseg.train.precision import choose_precision
from medseg.train.state import TrainState, load_checkpoint, save_checkpoint, start_state
from medseg.train.validation import make_validation
from medseg.workflows.model_folder import export_weights
from medseg.workflows.progress import Progress
from medseg.workflows.run_folder import RunFolder

LOADER_WORKERS_GPU = 8  # on a CPU patches are made in the training process: the cores are busy anyway


def select_all(config: Config) -> None:
    """Select everything a config names, so that a wrong name fails before data is touched."""
    select("model", MODELS, config.model.name, config.model.options)
    select("loss", LOSSES, config.loss.name, config.loss.options)
    for step in config.infer.postprocess:
        select("post-processing step", POSTPROCESS, step.name, step.options)
    for transform in config.augment.extra:
        _build_extra(transform.name, transform.options)


@dataclass(frozen=True)
class Fold:
    """One fold's data, as the training needs it."""

    number: int
    plan: Plan
    training: tuple[StoredCase, ...]
    validation: tuple[StoredCase, ...]

    def fingerprint(self, config: Config) -> str:
        """Hash all that the weights depend on."""
        keys = [case.entry["key"] for case in (*self.training, *self.validation)]
        free = {"workers", "infer", "nsd_tolerance_mm", "summary", "licence", "expected"}
        settings = config.model_dump(mode="json", exclude=free)
        return sha256_of([settings, self.plan.to_json(), keys, self.number])


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


def train_fold(
    config: Config,
    run: RunFolder,
    number: int,
    *,
    progress: Progress,
    tracker: Tracker,
    max_minutes: float | None = None,
    init_from: Path | None = None,
) -> None:
    """Train one fold, or go on where its checkpoint is, and write its weights into RUN/model.

    Args:
        config: The task.
        run: A preprocessed run.
        number: The fold.
        progress: Told after each epoch.
        tracker: Gets the metrics of each epoch.
        max_minutes: Train for about this long instead of `train.epochs`.
        init_from: A model whose weights to start from, where they fit.
    """
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    fold = load_fold(run, config, number)
    device = choose_device(config.device)
    folder = make_folder(run.fold(number))
    _settle_start(run, number, init_from)
    with process_group(device) as share:
        state, job = _set_up(config, fold, device, share, init_from)
        fingerprint = fold.fingerprint(config)
        if (folder / "checkpoint.pt").exists():
            load_checkpoint(folder / "checkpoint.pt", state, fingerprint)
        job = _settle_epochs(run, number, state, job, max_minutes)
        if state.epoch:
            note = "; --max-minutes counts only at the start" if max_minutes is not None else ""
            progress.say(f"fold {number}: going on after epoch {state.epoch} of {job.settings.epochs}{note}")
        observers = _observers(run, number, fingerprint, tracker) if share[0] == 0 else []
        with progress.track(f"train fold {number}", job.settings.epochs - state.epoch) as advance:
            train(state, job, [*observers, lambda _, numbers: advance(describe(numbers))])
        if share[0] == 0:
            _write_history(run, number, state)  # a kill may have come between checkpoint and history
            export_weights(config, run, number, state.average)


def _set_up(
    config: Config, fold: Fold, device: torch.device, share: tuple[int, int], init_from: Path | None
) -> tuple[TrainState, Job]:
    torch.manual_seed(config.seed * 1_000_003 + 7919 * fold.number)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    network = build_network(config.model, fold.plan, len(config.data.channels), config.data.n_outputs)
    if init_from:
        copy_weights(load_model(init_from, device).networks[0], network)
    dtype = choose_precision(config.train.amp, device)
    state = start_state(
        network.to(device), config.train, device, uses_scaler=device.type == "cuda" and dtype is torch.float16
    )
    batch = fold.plan.batch_size
    extra = [_build_extra(step.name, step.options) for step in config.augment.extra]
    patches = Patches(
        fold.training,
        fold.plan,
        config.augment,
        seed=config.seed,
        foreground_every=(_count_foreground(batch, config.train.foreground_share), batch),
        extra=extra,
    )
    workers = LOADER_WORKERS_GPU if device.type == "cuda" else 0
    batches = open_loader(patches, batch_size=batch, workers=workers, share=share, pin=device.type == "cuda")
    loss = select("loss", LOSSES, config.loss.name, config.loss.options)
    regions = region_classes(config.data)
    loss = deep_supervised(per_region(loss, regions) if regions else loss)
    job = Job(
        settings=config.train,
        batches=batches,
        loss=loss,
        device=device,
        dtype=dtype,
        dims=fold.plan.dims,
        seed=config.seed,
        validate=make_validation(
            fold.validation,
            fold.plan,
            output_names(config.data),
            count=config.train.validate_cases,
            overlap=config.infer.overlap,
            regions=regions,
        ),
    )
    return state, job


def _count_foreground(batch: int, share: float) -> int:
    """Return how many samples of a batch are centred on foreground: at least one, unless none is wanted."""
    return max(1, round(batch * share)) if share else 0


def _settle_start(run: RunFolder, number: int, init_from: Path | None) -> None:
    """Note which model a fold starts from; once noted or trained, another start is refused.

    Raises:
        ConfigError: CONFIG_CHANGED.
    """
    folder = run.fold(number)
    path = folder / "start.json"
    start = {"init_sha256": sha256_of_file(find_model(init_from) / SUMS) if init_from else None}
    known = read_json(path) if path.exists() else {"init_sha256": None}
    if known != start and (path.exists() or (folder / "checkpoint.pt").exists()):
        raise ConfigError(
            "this fold began from other weights",
            hint="give the same --init-from as before, or use another run folder",
            code="CONFIG_CHANGED",
        )
    if init_from:
        write_json(path, start)


def _build_extra(name: str, options: dict[str, object]) -> Callable[[], object]:
    """Return a builder of a MONAI dictionary transform; `keys` defaults to the image alone."""
    if ":" not in name:
        raise ConfigError(
            f"augment.extra names `{name}`",
            hint="for example monai.transforms:RandGibbsNoised",
            code="UNKNOWN_NAME",
        )
    return select("transform", {}, name, {"keys": ["image"], **options})


def _settle_epochs(
    run: RunFolder, number: int, state: TrainState, job: Job, max_minutes: float | None
) -> Job:
    """Turn a time budget into epochs once, and store the number before it is used."""
    if max_minutes is not None and dist.is_initialized():
        raise ConfigError("--max-minutes would differ between ranks", hint="set train.epochs instead")
    path = run.fold(number) / "budget.json"
    if path.exists():
        epochs = int(read_json(path)["epochs"])
    elif max_minutes is not None and state.epoch == 0:
        epochs = epochs_within(max_minutes, state, job)
        write_json(path, {"epochs": epochs})
    else:
        return job
    return Job(**{**vars(job), "settings": job.settings.model_copy(update={"epochs": epochs})})


def _observers(
    run: RunFolder, number: int, fingerprint: str, tracker: Tracker
) -> Sequence[Callable[[TrainState, dict[str, float]], None]]:
    folder = run.fold(number)

    def save(state: TrainState, numbers: dict[str, float]) -> None:
        save_checkpoint(folder / "checkpoint.pt", state, fingerprint)

    def log(state: TrainState, numbers: dict[str, float]) -> None:
        _write_history(run, number, state)
        tracker.log_metrics({k: v for k, v in numbers.items() if k != "epoch"}, step=int(numbers["epoch"]))

    return [save, log]


def _write_history(run: RunFolder, number: int, state: TrainState) -> None:
    columns = dict.fromkeys(name for row in state.history for name in row)
    write_csv(run.fold(number) / "history.csv", state.history, columns)


def describe(numbers: dict[str, float]) -> str:
    """Return an epoch in a few words."""
    text = f"epoch {numbers['epoch']:.0f} loss {numbers['train/loss']:.3f}"
    return text + (f" dice {numbers['val/dice']:.3f}" if "val/dice" in numbers else "")
