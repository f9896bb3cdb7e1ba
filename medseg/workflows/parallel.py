"""One case per task in worker processes, results as they come."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Self, TypeVar

from medseg.core.errors import ResourceError

Item = TypeVar("Item")
Result = TypeVar("Result")

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Workers:
    """Processes that are started when first needed and serve several steps of a command.

    Args:
        count: Processes; None: one a core; 0 or 1: everything in this process.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = os.cpu_count() or 1 if count is None else count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """Yield (position, result) in the order of completion.

        Args:
            function: Picklable, and it catches what belongs to one case.
            items: Picklable.

        Raises:
            ResourceError: A worker was killed, most often for memory.
        """
        if self.count <= 1 or len(items) <= 1:
            yield from ((index, function(item)) for index, item in enumerate(items))
            return
        try:
            futures = {self._start().submit(function, item): index for index, item in enumerate(items)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise ResourceError(
                "a worker process was killed, most often for lack of memory",
                hint="run the command again with fewer workers: --set workers=1",
                code="WORKER_DIED",
            ) from error

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # spawn: a fork of a process with threads (progress bar, torch) may deadlock.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, context, initializer=_use_one_thread)
        return self._pool


def _use_one_thread() -> None:
    """Share the cores: each worker computes on one. Runs before a worker imports numpy."""
    os.environ.update(ONE_THREAD)
