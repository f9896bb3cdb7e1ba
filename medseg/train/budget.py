"""Turn a time budget into a number of epochs, once, before training starts.

The number is stored by the caller before it is used: a resumed run is then the same run, however fast
the machine is by then.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable

import torch

from medseg.data.loader import Batch
from medseg.train.loop import Job, train_step
from medseg.train.precision import compile_network
from medseg.train.state import TrainState

WARM = 2  # iterations that also pay for start-up
TIMED = 4
SPARE = 0.85  # share of the budget for iterations; the rest is validation and writing


def epochs_within(minutes: float, state: TrainState, job: Job) -> int:
    """Time a few iterations on a copy of the state and return how many epochs fit (at least one)."""
    trial = copy.deepcopy(state)
    if job.is_compiled:  # a copy is not
        compile_network(trial.network)
    batches: Iterable[Batch] = job.batches(0, WARM + TIMED)
    started = 0.0
    for index, batch in enumerate(batches):
        if index == WARM:
            started = _read_clock(job.device)
        train_step(trial, job, batch)
    seconds = (_read_clock(job.device) - started) / TIMED
    iterations = minutes * 60 * SPARE / max(seconds, 1e-6)
    return max(1, int(iterations / job.settings.iterations_per_epoch))


def _read_clock(device: torch.device) -> float:
    """Return the time at which a GPU has done what it was told so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
