"""How far a command is. Workflows report here; the command line decides how it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str], None]


class Progress:
    """Silent progress; the command line subclasses it."""

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Advance]:
        """Yield a function to call after each of `total` steps, with a short note."""
        yield lambda note: None

    def say(self, text: str) -> None:
        """Show one line of news."""
