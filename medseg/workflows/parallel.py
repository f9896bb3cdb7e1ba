"""One case per task in worker processes, results as they come."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from medseg.core.errors import ResourceError

Item = TypeVar("Item")
Result = TypeVar("Result")

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def map_cases(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int | None
) -> Iterator[tuple[int, Result]]:
    """Yield (position, result) in the order of completion.

    Args:
        function: Picklable, and it catches what belongs to one case.
        items: Picklable.
        workers: Processes; None: one a core; 0 or 1: this process.

    Raises:
        ResourceError: A worker was killed, most often for memory.
    """
    count = min(len(items), os.cpu_count() or 1 if workers is None else workers)
    if count <= 1:
        yield from ((index, function(item)) for index, item in enumerate(items))
        return
    kept = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # workers share the cores; each computes on one
    try:
        # spawn: a fork of a process with threads (progress bar, torch) may deadlock.
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(function, item): index for index, item in enumerate(items)}
            for future in as_completed(futures):
                yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ResourceError(
            "a worker process was killed, most often for lack of memory",
            hint="run the command again with fewer workers: --set workers=1",
            code="WORKER_DIED",
        ) from error
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
