"""One case per task in worker processes, results as they come."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self, TypeVar

from medseg.core.errors import ResourceError
from medseg.workflows.machine import count_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
log = logging.getLogger(__name__)

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_places: Any = None  # in a worker: shared memory, the pid that is at each item, 0 for none


class Workers:
    """Processes that are started when first needed and serve several steps of a command.

    Args:
        count: Processes; None: one a core; 0 or 1: everything in this process.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count_cores() if count is None else count
        self._pool: ProcessPoolExecutor | None = None
        self._places: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        stage: str = "",
        name: Callable[[Item], str] = str,
    ) -> Iterator[tuple[int, Result]]:
        """Yield (position, result) in the order of completion; a killed worker is replaced once.

        Args:
            function: Picklable, and it catches what belongs to one case.
            items: Picklable.
            stage: What is done, for messages.
            name: Of an item, for messages.

        Raises:
            ResourceError: WORKER_DIED for the second time, most often for memory.
        """
        if self.count <= 1 or len(items) <= 1:
            yield from ((index, function(item)) for index, item in enumerate(items))
            return
        left = dict(enumerate(items))
        first: ResourceError | None = None
        while left:
            try:
                for index, result in self._run(function, dict(left)):
                    del left[index]
                    yield index, result
            except BrokenProcessPool as error:
                death = self._explain(left, stage, name)
                if first:
                    raise death from error
                first = death
                self._stop()
                self.count = max(1, self.count // 2)
                log.warning("WORKER_RETRIED %s; trying once more with %d", death.message, self.count)

    def _run(
        self, function: Callable[[Item], Result], items: dict[int, Item]
    ) -> Iterator[tuple[int, Result]]:
        pool = self._start(1 + max(items))
        futures, processes = {}, dict.fromkeys(multiprocessing.active_children())
        for index, item in items.items():
            futures[pool.submit(_work, function, index, item)] = index
            # Each time: a submit may start a worker, and one that has ended is not listed any more.
            processes |= dict.fromkeys(multiprocessing.active_children())
        self._processes = list(processes)
        for future in as_completed(futures):
            yield futures[future], future.result()

    def _start(self, items: int) -> ProcessPoolExecutor:
        if self._pool is None or len(self._places) < items:
            self._stop()
            # spawn: a fork of a process with threads (progress bar, torch) may deadlock.
            context = multiprocessing.get_context("spawn")
            self._places = context.RawArray("q", max(items, 4096))
            self._pool = ProcessPoolExecutor(
                self.count, context, initializer=_begin, initargs=(self._places,)
            )
        return self._pool

    def _stop(self) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def _explain(self, left: dict[int, Item], stage: str, name: Callable[[Item], str]) -> ResourceError:
        """Name the case, the stage and the signal of a worker that died."""
        killed = [process for process in self._processes if _was_killed(process)]
        at = {self._places[index]: name(item) for index, item in left.items() if self._places[index]}
        cases = [at[process.pid] for process in killed if process.pid in at]
        signals = sorted({_word_end(process.exitcode) for process in killed})
        return ResourceError(
            f"a worker was ended by {' and '.join(signals) or 'an unknown signal'}"
            + (f" at {stage} of {', '.join(cases) or 'an unknown case'}" if stage else ""),
            hint="most often memory ran out: run the command again with fewer workers: --set workers=1",
            code="WORKER_DIED",
        )


def _was_killed(process: BaseProcess) -> bool:
    """Whether it ended by itself: the pool ends the others with SIGTERM once one is dead."""
    process.join(5)
    return process.exitcode not in (None, 0, -signal.SIGTERM)


def _word_end(code: int | None) -> str:
    return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"


def _begin(places: Any) -> None:
    """Share the cores: each worker computes on one. Runs before a worker imports numpy."""
    global _places
    _places = places
    os.environ.update(ONE_THREAD)


def _work(function: Callable[[Item], Result], index: int, item: Item) -> Result:
    _places[index] = os.getpid()
    result = function(item)
    _places[index] = 0
    return result
