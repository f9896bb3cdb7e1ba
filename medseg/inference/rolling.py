"""The buffer that windows are blended in: as many planes as a window is deep, moved along the slab axis.

Shape legend: F classes or features, (N, P, Q) voxels with the slab axis first.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseg.inference.windows import Triple, WindowPlan

Finished = tuple[int, int, Tensor, Tensor | None]


class Rolling:
    """Weighted sums of windows, and of their weights, for the planes that are not finished yet.

    Args:
        plan: Of the windows.
        device: Where it lies.
        folder: Where to keep it in a file instead of memory: slower, and memory is needed for a window only.
    """

    def __init__(self, plan: WindowPlan, device: torch.device, folder: Path | None = None) -> None:
        self.plan = plan
        self.device = device
        self.folder = folder
        self._position = 0  # plane of the image that the buffer's first is
        self._values: Tensor | None = None
        self._map: mmap.mmap | None = None
        self._weights = torch.zeros((plan.depth, *plan.plane), device=device)

    def prepare(self, channels: int) -> None:
        """Make room for (channels, depth, P, Q) sums, once the number of channels is known."""
        shape = (channels, *self._weights.shape)
        if self._values is None:
            in_memory = self.folder is None
            self._values = torch.zeros(shape, device=self.device) if in_memory else self._open(shape)

    def add(self, start: Triple, scores_F: Tensor, weights: Tensor) -> None:
        """Add a window at `start`; (F, I, J, K) scores and (I, J, K) weights may hang over the image."""
        axis, values = self.plan.axis, self._values
        assert values is not None, "prepare comes first"
        ends = zip(start, self.plan.patch, self.plan.shape, strict=True)
        inside = [slice(max(0, a), min(size, a + edge)) for a, edge, size in ends]
        own = tuple(slice(part.start - a, part.stop - a) for part, a in zip(inside, start))
        along = inside.pop(axis)
        held = (slice(along.start - self._position, along.stop - self._position), *inside)
        share = weights[own].movedim(axis, 0)
        # float32: half-precision sums are slower on a CPU and lose small weights.
        values[(slice(None), *held)].addcmul_(scores_F[(slice(None), *own)].movedim(axis + 1, 1), share)
        self._weights[held] += share
        self._release()

    def finish(self, until: int) -> Iterator[Finished]:
        """Yield (start, stop, means, where windows looked) of all planes before `until`, and move on."""
        values = self._values
        assert values is not None, "prepare comes first"
        while self._position < until:
            count = min(until - self._position, self.plan.depth)
            weights = self._weights[:count]
            covered = weights > 0 if self.plan.is_partial else None
            for channel in values:
                channel[:count] /= weights.clamp_min(torch.finfo(torch.float32).tiny)
            yield self._position, self._position + count, values[:, :count], covered
            self._position += count
            if self._position < self.plan.shape[self.plan.axis]:
                for channel in (*values, self._weights):
                    channel[: len(channel) - count] = channel[count:].clone()
                    channel[len(channel) - count :] = 0
            self._release()

    def _open(self, shape: tuple[int, ...]) -> Tensor:
        with tempfile.TemporaryFile(dir=self.folder) as file:
            os.posix_fallocate(file.fileno(), 0, 4 * prod(shape))  # a full disk says so here
            self._map = mmap.mmap(file.fileno(), 0)
        return torch.from_numpy(np.frombuffer(self._map, np.float32).reshape(shape))

    def _release(self) -> None:
        """Give back the memory of pages that lie in the file."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)
