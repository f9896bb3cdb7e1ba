"""train: one fold from the store to RUN/model; killed at any moment, the same command goes on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from medseg.config import Config
from medseg.core.errors import MedsegError
from medseg.core.files import make_folder, write_csv
from medseg.core.select import select
from medseg.data.lateral import choose_swaps
from medseg.inference.model import load_model
from medseg.inference.network import choose_device
from medseg.inference.refine import REFINE
from medseg.losses import LOSSES
from medseg.metrics.chosen import choose_metrics
from medseg.models import MODELS
from medseg.postprocess import POSTPROCESS
from medseg.tracking.store import Tracker
from medseg.train.diagnosis import Finding
from medseg.train.distributed import process_group
from medseg.train.loop import Job, train
from medseg.train.optimizers import OPTIMIZERS
from medseg.train.precision import use_fast_kernels
from medseg.train.state import TrainState, load_checkpoint, save_checkpoint, start_state
from medseg.train.transfer import summarize
from medseg.workflows.fold import (
    Task,
    build_extra,
    label_names,
    load_fold,
    make_job,
    make_network,
    name_ends,
    refuse_uneven,
)
from medseg.workflows.look import Look
from medseg.workflows.machine import count_cores
from medseg.workflows.model_folder import export_weights
from medseg.workflows.progress import Progress
from medseg.workflows.rehearsal import rehearse
from medseg.workflows.report import Report
from medseg.workflows.rescue import explain, mend
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.start import (
    Engine,
    note_transfer,
    settle_engine,
    settle_epochs,
    settle_start,
)

log = logging.getLogger(__name__)
LOADER_WORKERS_GPU = 8


def select_all(config: Config) -> None:
    """Select everything a config names, so that a wrong name or value fails before data is touched."""
    select("model", MODELS, config.model.name, config.model.options)
    select("loss", LOSSES, config.loss.name, config.loss.options)
    select("optimizer", OPTIMIZERS, config.train.optimizer, config.train.optimizer_options)
    rehearse(config)
    choose_metrics(options=config.metrics)
    for step in config.infer.refine:
        select("refine step", REFINE, step.name, step.options)
    for step in config.infer.postprocess:
        select("post-processing step", POSTPROCESS, step.name, step.options)
    choose_swaps(config.augment, label_names(config))
    for transform in config.augment.extra:
        build_extra(transform.name, transform.options)


def count_workers(device: torch.device) -> int:
    """Return how many processes make patches: none on a CPU, whose cores are busy anyway."""
    cores = count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(LOADER_WORKERS_GPU, cores)) if device.type == "cuda" else 0


def train_fold(
    config: Config,
    run: RunFolder,
    number: int,
    *,
    progress: Progress,
    tracker: Tracker,
    report: Report,
    max_minutes: float | None = None,
    init_from: Path | None = None,
    auto_shrink: bool = False,
) -> None:
    """Train one fold, or go on where its checkpoint is, and write its weights into RUN/model.

    Warnings go to the log and, as {fold, code, message}, into `report.extra["warnings"]`.

    Raises:
        ResourceError: OUT_OF_MEMORY, or WORKER_DIED for the second time.
    """
    torch.set_num_threads(config.threads or count_cores())
    fold = load_fold(run, config, number)
    device = choose_device(config.device)
    settle_start(make_folder(run.fold(number)), init_from)
    workers = count_workers(device)
    with process_group(device) as share:
        task = Task(config, run, fold, device, share, progress, tracker, max_minutes, init_from, auto_shrink)
        retries: list[Finding] = []
        state = _try(task, workers)
        while isinstance(state, MedsegError):
            workers = mend(task, state, workers, retries)
            state = _try(task, workers)
        if share[0] == 0:
            _write_history(task.folder, state)  # a kill may have come between checkpoint and history
            export_weights(config, run, number, state.final)
    notes = Engine.read(task.folder / "engine.json").notes
    report.extra.setdefault("warnings", []).extend(
        {"fold": number, "code": finding.code, "message": finding.message}
        for finding in (*notes, *retries, *state.findings)
    )


def _try(task: Task, workers: int) -> TrainState | MedsegError:
    """Train to the end, or return what may be mended by starting again from the last whole epoch."""
    look = Look(task.config) if task.tracker.is_on and task.share[0] == 0 else None
    job, worklog = make_job(task.config, task.fold, task.device, task.share, workers, look)
    try:
        return _train(task, job, look)
    except (RuntimeError, MemoryError) as error:
        failure = explain(task, error, worklog)
        if failure is None:
            raise
        return failure


def _train(task: Task, job: Job, look: Look | None) -> TrainState:
    config, folder = task.config, task.folder
    refuse_uneven(task.fold.plan.batch_size, config.train.accumulate, task.share[1])
    use_fast_kernels(task.device)
    checkpoint = folder / "checkpoint.pt"
    is_new = not checkpoint.exists()
    model = load_model(task.init_from, task.device) if task.init_from and is_new else None
    network, moved = make_network(config, task.fold, task.device, model)
    if model:
        task.progress.say(f"--init-from {model.name}: {summarize(moved)}")
        note_transfer(folder, model.name, moved)
    engine = settle_engine(folder, network, job)
    refuse_uneven(task.fold.plan.batch_size, engine.accumulate, task.share[1])  # one process may have shrunk
    ends = name_ends(config)
    state = start_state(
        network,
        config.train,
        task.device,
        uses_scaler=task.device.type == "cuda" and engine.torch_dtype is torch.float16,
        ends=(len(ends.channels), len(ends.classes)),
    )
    origin = task.fold.origin(config)
    if not is_new:
        load_checkpoint(checkpoint, state, origin)
        if job.case_scores is not None:
            job.case_scores.update(state.case_scores)
    settings = config.train.model_copy(update={"accumulate": engine.accumulate})
    job = replace(job, settings=settings, dtype=engine.torch_dtype, is_compiled=engine.is_compiled)
    epochs = settle_epochs(folder, state, job, task.max_minutes)
    job = replace(job, settings=settings.model_copy(update={"epochs": epochs}))
    if state.epoch:
        note = "; --max-minutes counts only at the start" if task.max_minutes is not None else ""
        task.progress.say(f"fold {task.fold.number}: going on after epoch {state.epoch} of {epochs}{note}")
    if look is not None and job.validate is not None and not state.epoch:
        look.expect(task.fold.validation[0])
        _show(task, look, 0)
    observers = _observers(task, origin, look) if task.share[0] == 0 else []
    with task.progress.track(f"train fold {task.fold.number}", epochs - state.epoch) as advance:
        return train(state, job, [*observers, lambda _, numbers: advance(describe(numbers))])


def _observers(
    task: Task, origin: dict[str, object], look: Look | None
) -> Sequence[Callable[[TrainState, dict[str, float]], None]]:
    seen: set[tuple[str, str]] = set()

    def save(state: TrainState, numbers: dict[str, float]) -> None:
        save_checkpoint(task.folder / "checkpoint.pt", state, origin)

    def tell(state: TrainState, numbers: dict[str, float]) -> None:
        _write_history(task.folder, state)
        measured = {name: value for name, value in numbers.items() if name != "epoch"}
        step = int(numbers["epoch"])
        task.tracker.log_metrics(measured, step=step)
        if look is not None:
            _show(task, look, step)
        for finding in state.findings:
            if (finding.code, finding.subject) not in seen:
                seen.add((finding.code, finding.subject))
                log.warning("%s fold %d: %s", finding.code, task.fold.number, finding.message)

    return [save, tell]


def _show(task: Task, look: Look, step: int) -> None:
    if picture := look.draw(task.fold.plan.spacing_mm):
        task.tracker.log_image(picture, "validation", step)


def _write_history(folder: Path, state: TrainState) -> None:
    columns = dict.fromkeys(name for row in state.history for name in row)
    write_csv(folder / "history.csv", state.history, columns)


def describe(numbers: dict[str, float]) -> str:
    """Return an epoch in a few words."""
    text = f"epoch {numbers['epoch']:.0f} loss {numbers['train/loss']:.3f}"
    return text + (f" dice {numbers['val/dice']:.3f}" if "val/dice" in numbers else "")
