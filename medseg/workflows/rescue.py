"""What a training does about memory that ran out and about a worker that died: say it, and try once more."""

from __future__ import annotations

import gc
import logging
from dataclasses import replace

import torch

from medseg.core.errors import MedsegError, ResourceError, is_out_of_memory
from medseg.data.worklog import Worklog, explain_death
from medseg.train.diagnosis import Finding
from medseg.workflows.fold import Task
from medseg.workflows.start import Engine, save_engine

log = logging.getLogger(__name__)


def explain(task: Task, error: BaseException, worklog: Worklog) -> MedsegError | None:
    """Return what hindered a training, where that is memory or a worker; None for all else."""
    return _explain_memory(task, error) or _explain_worker(task, error, worklog)


def _explain_memory(task: Task, error: BaseException) -> MedsegError | None:
    if not is_out_of_memory(error):
        return None
    patch = "x".join(map(str, task.fold.plan.patch[: task.fold.plan.dims]))
    return ResourceError(
        f"out of memory at a patch of {patch} and a batch of {task.fold.plan.batch_size}",
        hint="--auto-shrink passes the batch in parts; or lower grid.batch_size or grid.patch, "
        "or set train.checkpoint_activations=true",
        code="OUT_OF_MEMORY",
    )


def _explain_worker(task: Task, error: BaseException, worklog: Worklog) -> MedsegError | None:
    death = explain_death(error)
    if death is None:
        return None
    pids, how = death
    numbers = [number for pid in pids if (number := worklog.find(pid)) is not None]
    cases = ", ".join(task.fold.training[number].id for number in numbers) or "an unknown case"
    return ResourceError(
        f"a worker that made training patches was ended by {how} at {cases}",
        hint="most often memory ran out: a machine with more, or a smaller grid.patch",
        code="WORKER_DIED",
    )


def mend(task: Task, failure: MedsegError, workers: int, retries: list[Finding]) -> int:
    """Change what may let the training go on, and return the number of loader workers.

    Raises:
        MedsegError: The failure itself, where nothing is left to change.
    """
    if failure.code == "OUT_OF_MEMORY":
        finding = _shrink(task)
    elif workers and not retries and task.share[1] == 1:  # other ranks would wait in a step for this one
        workers //= 2
        text = f"{failure.message}; trying once more with {workers} workers"
        finding = Finding("WORKER_RETRIED", "", text)
        retries.append(finding)
    else:
        finding = None
    if finding is None:
        raise failure
    log.warning("%s fold %d: %s", finding.code, task.fold.number, finding.message)
    gc.collect()  # what failed may hang in a cycle with its traceback
    if task.device.type == "cuda":
        torch.cuda.empty_cache()
    return workers


def _shrink(task: Task) -> Finding | None:
    """Double the parts in which a batch passes, and note it; not where each is one sample already."""
    path = task.folder / "engine.json"
    if not (task.auto_shrink and task.share[1] == 1):
        return None
    # Memory may run out in the trials that decide on an engine.
    undecided = Engine("", "float32", False, task.config.train.accumulate)
    engine, batch = Engine.read(path) if path.exists() else undecided, task.fold.plan.batch_size
    parts = min(2 * engine.accumulate, batch)
    if parts == engine.accumulate:
        return None
    text = f"out of memory: the batch of {batch} now passes in {parts} parts, as one step still"
    finding = Finding("BATCH_SHRUNK", "", text)
    save_engine(task.folder, replace(engine, accumulate=parts, notes=(*engine.notes, finding)))
    return finding
