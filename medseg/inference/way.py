"""How a case is predicted so that it fits into memory, from the fastest way down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Way:
    """What is chosen for a case; no choice changes the mask but for float noise.

    Args:
        window_batch: Windows per forward pass.
        blends_on_cpu: Whether windows of a GPU's network are blended in the machine's memory.
        in_file: Whether the buffer that they are blended in lies in a file.
    """

    window_batch: int
    blends_on_cpu: bool = False
    in_file: bool = False

    def step_down(self, *, has_gpu: bool) -> Iterator[Way]:
        """Yield ways that may need less memory, the slowest last; few windows at once do not always."""
        way = self
        while way.window_batch > 1:
            way = replace(way, window_batch=way.window_batch // 2)
            yield way
        if has_gpu:
            way = replace(way, blends_on_cpu=True)
            yield way
        yield replace(way, in_file=True)
        if self.window_batch > 1:
            yield replace(way, in_file=True, window_batch=self.window_batch)

    def describe(self) -> str:
        """Return the way in a few words."""
        words = [f"{self.window_batch} window{'s' if self.window_batch > 1 else ''} at once"]
        words += ["blended on the CPU"] if self.blends_on_cpu else []
        words += ["blended in a file"] if self.in_file else []
        return ", ".join(words)
