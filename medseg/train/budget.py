"""Turn a time budget into a number of epochs, once, before training starts.

The number is stored by the caller before it is used: a resumed run is then the same run, however fast
the machine is by then.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable

from medseg.data.loader import Batch
from medseg.train.loop import Job, train_step
from medseg.train.state import TrainState

WARM = 2  # iterations that also pay for start-up
TIMED = 4
SPARE = 0.85  # share of the budget for iterations; the rest is validation and writing


def epochs_within(minutes: float, state: TrainState, job: Job) -> int:
    """Time a few iterations on a copy of the state and return how many epochs fit (at least one)."""
    trial = copy.deepcopy(state)
    batches: Iterable[Batch] = job.batches(0, WARM + TIMED)
    started = 0.0
    for index, batch in enumerate(batches):
        if index == WARM:
            started = time.perf_counter()
        train_step(trial, job, batch)
    seconds = (time.perf_counter() - started) / TIMED
    iterations = minutes * 60 * SPARE / max(seconds, 1e-6)
    return max(1, int(iterations / job.settings.iterations_per_epoch))
