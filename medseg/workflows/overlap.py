"""Neighbouring cases at once: while one is predicted, the next is read and the last is written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Protocol, TypeVar

Step = TypeVar("Step")
Result = TypeVar("Result", covariant=True)


class Stages(Protocol[Step, Result]):
    """What is done with a case, in this order; a case that fails says so in its result and raises nothing."""

    def read(self, index: int) -> Step:
        """Begin a case."""

    def is_roomy(self, step: Step) -> bool:
        """Whether its neighbours may be in memory beside a case that was read."""

    def predict(self, step: Step) -> Step:
        """Do the work, in the caller's thread."""

    def write(self, step: Step) -> Result:
        """End the case."""


def run_stages(
    count: int, stages: Stages[Step, Result], tell: Callable[[Result], None], *, lanes: int
) -> None:
    """Bring `count` cases through their stages; results are told in the order of the cases.

    No more than one case is read ahead and one is not yet written. What a stage raises ends all, once what is
    being written is whole.

    Args:
        count: How many.
        stages: What is done.
        tell: Gets each result, in the caller's thread.
        lanes: 2: reading and writing have a thread each; 1: they share one, so they never meet.
    """
    ahead: Future[Step] | None = None
    behind: Future[Result] | None = None
    with ExitStack() as stack:
        reader = stack.enter_context(ThreadPoolExecutor(1))
        writer = reader if lanes == 1 else stack.enter_context(ThreadPoolExecutor(1))
        try:
            for index in range(count):
                step = (ahead or reader.submit(stages.read, index)).result()
                ahead = None
                is_roomy = stages.is_roomy(step)
                if behind is not None and not is_roomy:
                    last, behind = behind, None
                    tell(last.result())
                if is_roomy and index + 1 < count:
                    ahead = reader.submit(stages.read, index + 1)
                step = stages.predict(step)
                before, behind = behind, writer.submit(stages.write, step)
                del step
                if before is not None:
                    tell(before.result())
                if not is_roomy:
                    last, behind = behind, None
                    tell(last.result())
        finally:
            if ahead is not None:
                ahead.cancel()
            if behind is not None:
                tell(behind.result())
