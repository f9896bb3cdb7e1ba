"""How sure a mean is, or a difference of two on the same cases: bootstrap over cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVEL = 95.0


def interval(values: Sequence[float], *, seed: int = 0, samples: int = 10_000) -> tuple[float, float, float]:
    """Return the mean and its percentile bootstrap interval of 95 % (Efron 1979).

    Args:
        values: One per case.
        seed: Of the resampling.
        samples: How often the cases are drawn anew, with replacement.
    """
    data = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(seed).integers(0, len(data), (samples, len(data)))
    low, high = np.percentile(data[drawn].mean(1), [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(data.mean()), float(low), float(high)


def paired_interval(
    a: Sequence[float], b: Sequence[float], *, seed: int = 0, samples: int = 10_000
) -> tuple[float, float, float]:
    """Return the mean of a - b, case by case, and its bootstrap interval of 95 %.

    Raises:
        ValueError: They differ in length.
    """
    return interval([x - y for x, y in zip(a, b, strict=True)], seed=seed, samples=samples)
