"""How far a command is. Workflows report here; the command line decides how it looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called after each step."""

    def __call__(self, note: str, is_free: bool = False) -> None:
        """Take a short note; a free step took no work, so its time tells nothing of the others."""


class Progress:
    """Silent progress; the command line subclasses it."""

    @contextmanager
    def track(self, what: str, total: int, works: Sequence[float] = ()) -> Iterator[Advance]:
        """Yield what to call after each of `total` steps; `works` tells how much each is, if they differ."""

        def advance(note: str, is_free: bool = False) -> None:
            pass

        yield advance

    def say(self, text: str) -> None:
        """Show one line of news."""


def estimate_left(works: Sequence[float], counted: Sequence[bool], elapsed_s: float) -> float | None:
    """Return the seconds that the steps ahead will take at the pace so far; None before there is one.

    Args:
        works: Of all steps, in any unit.
        counted: Of the steps behind, whether each was really worked on.
        elapsed_s: Since the first step began.
    """
    done = sum(work for work, is_counted in zip(works, counted) if is_counted)
    return elapsed_s * sum(works[len(counted) :]) / done if done else None


def word_left(seconds: float | None) -> str:
    """Return a remaining time in words; "" where it is unknown or hardly any."""
    if seconds is None or seconds < 1:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 6000 else f"{seconds / 3600:.1f} h left"
