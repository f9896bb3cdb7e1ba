"""A case without content, to train on where only time and memory are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.store import StoredCase

EDGE = 8  # voxels along each axis that carry labels, in the middle


@dataclass(frozen=True)
class BlankCase(StoredCase):
    """A stored case of a shape, its image zero and its middle labelled; it takes next to no memory.

    Args:
        grid_shape: (I, J, K).
        channels: Of the image.
        classes: Foreground classes; each lies somewhere in the middle.
    """

    folder: Path = field(default=Path("blank"), init=False)
    grid_shape: tuple[int, int, int]
    channels: int
    classes: int

    @cached_property
    def image(self) -> Any:
        """(C, I, J, K) float16 zeros; one value in memory."""
        return np.broadcast_to(np.float16(0), (self.channels, *self.grid_shape))

    @cached_property
    def label(self) -> Any:
        """(I, J, K) uint8; pages that nobody wrote take no memory."""
        label = np.zeros(self.grid_shape, np.uint8)
        middle = tuple(slice(max(0, n // 2 - EDGE // 2), n // 2 + EDGE // 2) for n in self.grid_shape)
        inner = label[middle]
        inner[...] = (np.arange(inner.size) % self.classes + 1).reshape(inner.shape)
        return label

    @cached_property
    def labelled(self) -> None:
        """Nothing is ignored."""

    @cached_property
    def points(self) -> dict[int, NDArray[np.int64]]:
        """The middle voxel for every class."""
        middle = np.array([self.grid_shape]) // 2
        return {value + 1: middle for value in range(self.classes)}
