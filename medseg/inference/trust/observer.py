"""What the logits of one case say of themselves: sums per structure, in one pass over finished slabs.

A slab is used and forgotten; what stays is a few numbers a structure and one plane of labels, whatever
the size of the scan. The sums do not depend on how a volume is cut into slabs, float noise aside.

Shape legend: F outputs of the network, n planes of a slab, (A, B) the other two axes of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VALUES = 1 << 22  # logits looked at at once: 16 MB in float32, and a few copies of it

SUMS = ("voxels", "mass", "hit", "variance", "entropy", "faces", "rim", "disagreement")
"""Per structure: predicted voxels; the sum of its probability p over all voxels, and over the predicted
ones; the sum of p (1 - p); over the predicted voxels the entropy and disagreement; faces between a voxel
inside and one outside; predicted voxels in the outermost planes of the grid."""


class Slab(Protocol):
    """Finished planes of logits along one axis of the preprocessed grid."""

    @property
    def axis(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def disagreement(self) -> Tensor | None:
        """(n, A, B) between members, where it was asked for."""

    def plane(self, index: int) -> Tensor:
        """Return (F, A, B) logits of plane `start + index`; A and B are the other axes, ascending."""


@dataclass(frozen=True, eq=False)
class Whole:
    """A whole (F, n, A, B) array of logits as one slab."""

    values: Tensor
    disagreement: Tensor | None = None
    axis: int = 0
    start: int = 0

    @property
    def stop(self) -> int:
        """One past the last plane."""
        return int(self.values.shape[1])

    def plane(self, index: int) -> Tensor:
        """Return (F, A, B) logits."""
        return self.values[:, index]


def split_planes(slab: Slab) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Yield (first plane, (F, m, A, B) logits, (m, A, B) disagreement) of parts of about `VALUES` logits."""
    n = slab.stop - slab.start
    step = max(1, VALUES // max(1, slab.plane(0).numel()))
    for first in range(0, n, step):
        part = range(first, min(n, first + step))
        disagreement = None if slab.disagreement is None else slab.disagreement[part.start : part.stop]
        yield slab.start + first, torch.stack([slab.plane(index) for index in part], 1).float(), disagreement


def to_probabilities(logits: Tensor, temperatures: Sequence[float], *, is_regions: bool) -> Tensor:
    """Return probabilities of (F, ...) logits.

    Args:
        logits: Of background and labels, or of regions that overlap.
        temperatures: One for all classes, or one a region; Guo et al. 2017, section 4.2.
        is_regions: Whether each output stands for itself.
    """
    scale = logits.new_tensor(temperatures).view(-1, *(1,) * (logits.ndim - 1))
    return torch.sigmoid(logits / scale) if is_regions else torch.softmax(logits / scale, 0)


def measure_entropy(probabilities: Tensor, *, is_regions: bool) -> Tensor:
    """Return entropy over the first axis as a share of its maximum: 0 certain, 1 all outcomes alike.

    Of regions it is the mean of their binary entropies.
    """
    entropy: Tensor
    if is_regions:
        other = 1 - probabilities
        binary = torch.special.entr(probabilities) + torch.special.entr(other)
        entropy = binary.mean(0) / math.log(2)
    else:
        entropy = torch.special.entr(probabilities).sum(0) / math.log(max(2, len(probabilities)))
    return entropy


class Observer:
    """Adds up `SUMS` for each structure of one case; call it with every slab, in order."""

    def __init__(self, n_outputs: int, shape: Sequence[int], *, is_regions: bool) -> None:
        """Start at zero.

        Args:
            n_outputs: F.
            shape: (3,) of the preprocessed grid.
            is_regions: Whether structures overlap; else output 0 is background.
        """
        self.n_outputs, self.shape, self.is_regions = n_outputs, tuple(shape), is_regions
        self.has_disagreement = False
        n_rows = n_outputs if is_regions else n_outputs - 1
        self._sums = np.zeros((n_rows, len(SUMS)))
        self._last: Tensor | None = None  # the plane of labels before the next slab

    def observe(self, slab: Slab) -> None:
        """Add the planes of a slab."""
        for first, logits, apart in split_planes(slab):
            self.has_disagreement |= apart is not None
            disagreement = torch.zeros_like(logits[0]) if apart is None else apart
            p = to_probabilities(logits, (1.0,), is_regions=self.is_regions)
            entropy = measure_entropy(p, is_regions=self.is_regions)
            rim = self._find_rim(slab.axis, first, logits.shape[1:], logits.device)
            labels = p > 0.5 if self.is_regions else p.argmax(0)[None]
            before = self._last
            self._last = labels[:, -1].clone()
            for row, found in enumerate(labels.long()):
                joined = found if before is None else torch.cat([before[row][None].long(), found])
                sums = self._tally(found, joined, (entropy, rim, disagreement))
                chance = torch.stack([1 - p[row], p[row]]) if self.is_regions else p
                sums[:, 1:4] = _sum_mass(chance, found)
                if self.is_regions:
                    self._sums[row] += sums[1]
                else:
                    self._sums += sums[1:]

    def _tally(
        self, found: Tensor, joined: Tensor, maps: tuple[Tensor, Tensor, Tensor]
    ) -> NDArray[np.float64]:
        """Return (outcomes, SUMS) of one label map; columns 1 to 3 are left to `_sum_mass`."""
        n = 2 if self.is_regions else self.n_outputs
        sums = np.zeros((n, len(SUMS)))
        sums[:, 0] = _count(found, n)
        for column, weights in zip((4, 6, 7), maps):
            sums[:, column] = _count(found, n, weights)
        for one, other in (
            (joined[1:], joined[:-1]),
            (found[:, 1:], found[:, :-1]),
            (found[:, :, 1:], found[:, :, :-1]),
        ):
            differs = one != other
            sums[:, 5] += _count(one[differs], n) + _count(other[differs], n)
        return sums

    def _find_rim(self, axis: int, first: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """Return (m, A, B) ones in the outermost planes of the grid, but not of axes below 3 voxels."""
        rim = torch.zeros(tuple(shape), device=device)
        if self.shape[axis] > 2:
            for plane in {0, self.shape[axis] - 1} & set(range(first, first + shape[0])):
                rim[plane - first] = 1
        for other in (1, 2):
            if shape[other] > 2:
                rim.select(other, 0).fill_(1)
                rim.select(other, -1).fill_(1)
        return rim

    def summarize(self) -> NDArray[np.float64]:
        """Return (structures, SUMS)."""
        return self._sums.copy()


def _count(labels: Tensor, n: int, weights: Tensor | None = None) -> NDArray[np.float64]:
    flat = None if weights is None else weights.flatten().double()
    return np.asarray(torch.bincount(labels.flatten(), flat, n).cpu(), np.float64)


def _sum_mass(chance: Tensor, found: Tensor) -> NDArray[np.float64]:
    """Return (outcomes, 3): the sum of p over all voxels, over those it was chosen for, and of p (1 - p)."""
    n = len(chance)
    mass, variance = chance.double().sum((1, 2, 3)), (chance * (1 - chance)).double().sum((1, 2, 3))
    hit = _count(found, n, chance.gather(0, found[None])[0])
    return np.stack([np.asarray(mass.cpu()), hit, np.asarray(variance.cpu())], axis=1)
