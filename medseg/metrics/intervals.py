"""95 % intervals of many means at once: patients are drawn once, and every mean is taken of the same draws.

The interval is that of `paired`: the expanded percentile bootstrap over patients. A mean over cases of a
label that some cases lack is taken of the cases that a draw has; its levels are expanded for the patients
that have a value. Below `MIN_GROUPS` such patients there is no interval.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.paired import METHOD, MIN_GROUPS, RESAMPLES, expand_levels

MAX_DRAWN = 20_000_000  # counts kept, a byte each: all draws for up to 2,000 patients
AT_ONCE = 2_000_000  # counts multiplied at once, 8 bytes each

Array = NDArray[np.float64]
Interval = list[float] | None


class Resamples:
    """Bootstrap draws of patients.

    Args:
        patients: (N,) whose case each one is.
        seed: Of the draws.
    """

    def __init__(self, patients: Sequence[Hashable], *, seed: int = 0) -> None:
        names = {name: index for index, name in enumerate(dict.fromkeys(patients))}
        self.owner = np.array([names[name] for name in patients], np.int64)
        self.n_patients, self._seed = len(names), seed
        self.count = min(RESAMPLES, max(1000, MAX_DRAWN // max(1, self.n_patients)))
        self._drawn = self._draw() if self.n_patients >= MIN_GROUPS else None

    def _draw(self) -> NDArray[np.uint8]:
        rng, n = np.random.default_rng(self._seed), self.n_patients
        drawn = np.empty((self.count, n), np.uint8)  # a patient is drawn 255 times in no resample
        for start in range(0, self.count, step := max(1, AT_ONCE // n)):
            size = min(step, self.count - start)
            drawn[start : start + size] = rng.multinomial(n, np.full(n, 1 / n), size=size)
        return drawn

    @property
    def method(self) -> dict[str, Any]:
        """What the output says of its intervals."""
        return {**METHOD, "resamples": self.count, "seed": self._seed, "patients": self.n_patients}

    def count_patients(self, values: Array) -> list[int]:
        """Return of each column how many patients have a value; (N, V), NaN where undefined."""
        return [len(np.unique(self.owner[~np.isnan(column)])) for column in values.T]

    def means(self, values: Array) -> Array | None:
        """Return (draws, V): the mean over the cases of each draw, NaN where it has none.

        Args:
            values: (N, V), NaN where undefined.

        Returns:
            None for too few patients.
        """
        if self._drawn is None:
            return None
        is_there = ~np.isnan(values)
        who, owner = np.unique(self.owner[is_there.any(1)], return_inverse=True)
        sums, sizes = np.zeros((2, len(who), values.shape[1]))
        np.add.at(sums, owner, np.where(is_there, values, 0)[is_there.any(1)])
        np.add.at(sizes, owner, is_there[is_there.any(1)])
        result = np.empty((self.count, values.shape[1]))
        for part, drawn in self._parts(who):
            with np.errstate(invalid="ignore"):
                result[part] = (drawn @ sums) / (drawn @ sizes)
        return result

    def _parts(self, who: NDArray[np.int64]) -> Iterator[tuple[slice, Array]]:
        assert self._drawn is not None
        step = max(1, AT_ONCE // max(1, len(who)))
        for start in range(0, self.count, step):
            part = slice(start, min(start + step, self.count))
            rows = self._drawn[part]
            yield part, (rows if len(who) == self.n_patients else rows[:, who]).astype(np.float64)

    def intervals(self, values: Array, means: Array | None = None) -> list[Interval]:
        """Return [low, high] of each column's mean, None with too few patients; `means` if known already."""
        patients = self.count_patients(values)
        means = self.means(values) if means is None and max(patients, default=0) >= MIN_GROUPS else means
        if means is None:
            return [None] * values.shape[1]
        return [cut(means[:, at], n) for at, n in enumerate(patients)]


def cut(means: Array, n_patients: int) -> Interval:
    """Return [low, high] of bootstrap means; None of fewer than `MIN_GROUPS` patients."""
    if n_patients < MIN_GROUPS:
        return None
    low, high = np.nanquantile(means, expand_levels(n_patients))
    return [float(low), float(high)]
