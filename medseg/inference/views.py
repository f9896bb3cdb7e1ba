"""Outputs of several networks and mirrorings for the same windows: their mean, and how far they are apart.

Shape legend: B windows, F classes or features, C classes, (I, J, K) voxels of a window, V views.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from itertools import product
from math import prod
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from medseg.inference.head import Head

CHANCES = 1 << 21  # probabilities of all views that are compared at once: 8 MB, a few times over


class Views:
    """Holds each output once, in memory or in a file; how far they are apart is told of all together.

    Args:
        folder: Where a file without a name may lie; None: memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = None if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (see __exit__)
        self._held: list[Tensor] = []
        self._shape: tuple[int, ...] = ()
        self._device = torch.device("cpu")
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *about: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, output_BFIJK: Tensor) -> None:
        """Take the next view."""
        self._shape = tuple(output_BFIJK.shape)
        self._count += 1
        if self._file is None:
            self._device = output_BFIJK.device
            self._held.append(output_BFIJK)
        else:
            self._file.write(output_BFIJK.cpu().contiguous().numpy().data)
            self._file.flush()

    def compare(self, activation: Callable[[Tensor], Tensor], head: Head | None) -> Tensor:
        """Return (B, F + 1, I, J, K): the mean, and half the mean L1 distance of probabilities from theirs.

        These are made for a few planes at once: those of all views together are many times the outputs.

        Args:
            activation: (V, C, ...) logits -> probabilities.
            head: Makes logits of outputs; None: they are logits.
        """
        batch, features, planes, *plane = self._shape
        head = None if head is None else head.to(self._device)
        classes = features if head is None else len(head.bias)
        step = max(1, CHANCES // (self._count * classes * prod(plane)))
        result = torch.empty((batch, features + 1, planes, *plane), device=self._device)
        for row, start in product(range(batch), range(0, planes, step)):
            part = slice(start, min(planes, start + step))
            values_V = [self._read(view, row, part) for view in range(self._count)]
            chances_V = activation(torch.stack(values_V if head is None else [*map(head, values_V)]))
            result[row, -1, part] = (chances_V - chances_V.mean(0)).abs_().sum(1).mean(0) / 2
            total = values_V[0].clone()
            for values in values_V[1:]:
                total += values
            result[row, :-1, part] = total / self._count
        return result

    def _read(self, view: int, row: int, part: slice) -> Tensor:
        """Return (F, n, J, K) planes of a window."""
        if self._file is None:
            return self._held[view][row, :, part]
        batch, features, planes, *plane = self._shape
        values = np.empty((features, part.stop - part.start, *plane), np.float32)
        for feature, content in enumerate(values):  # not mapped: the system maps more than is looked at
            at = ((view * batch + row) * features + feature) * planes + part.start
            os.preadv(self._file.fileno(), [content.data], 4 * at * prod(plane))
        return torch.from_numpy(values)
