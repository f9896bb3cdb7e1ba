"""Is one method better than another on the same cases? The mean of paired differences, with its interval.

Patients are resampled, not cases: two scans of one patient are not two witnesses. The interval is the
*expanded percentile interval* (Hesterberg 2015, The American Statistician 69, and arXiv:1411.5279): the plain
percentile interval of a mean is too narrow for few patients, so its levels are moved outwards until, for
symmetric data, it equals the t interval. BCa covers worse for a mean of few values (Owen 2025,
arXiv:2508.10083).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 10_000
DRAWN = 10_000_000  # counts drawn at once: 0.1 GB
MIN_GROUPS = 6
"""With fewer, a coin gives all patients the same sign in more than 5 % of cohorts: 2 * 0.5^5 = 0.06."""

METHOD = {
    "method": "expanded percentile bootstrap over patients (Hesterberg 2015, arXiv:1411.5279)",
    "level": LEVEL,
    "resamples": RESAMPLES,
    "min_patients": MIN_GROUPS,
}


@dataclass(frozen=True)
class Interval:
    """The mean of some differences, and where the true mean lies; None, None with too few patients."""

    mean: float
    low: float | None
    high: float | None
    n_cases: int
    n_patients: int

    @property
    def is_above_zero(self) -> bool:
        """Whether a gain is shown."""
        return self.low is not None and self.low > 0

    def to_json(self) -> dict[str, Any]:
        """Return plain data, rounded as metrics are."""
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def bootstrap_mean(
    differences: Sequence[float] | NDArray[np.float64], patients: Sequence[Hashable], *, seed: int
) -> Interval:
    """Return the mean over cases and its interval.

    Args:
        differences: (N,) one a case, N >= 1.
        patients: (N,) whose case it is; cases of one patient are drawn together.
        seed: The same seed and values in the same order give the same interval.
    """
    values = np.asarray(differences, np.float64)
    names = {name: index for index, name in enumerate(dict.fromkeys(patients))}
    owner = np.array([names[name] for name in patients])
    sums, sizes = np.bincount(owner, values), np.bincount(owner)
    mean, n = float(values.mean()), len(names)
    if n < MIN_GROUPS:
        return Interval(mean, None, None, len(values), n)
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, step := max(1, DRAWN // n)):
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=min(step, RESAMPLES - start))
        means[start : start + step] = (drawn @ sums) / (drawn @ sizes)
    low, high = np.quantile(means, expand_levels(n))
    return Interval(mean, float(low), float(high), len(values), n)


def expand_levels(n: int) -> tuple[float, float]:
    """Return the quantiles whose distance, of a normal bootstrap distribution, is that of the t interval.

    Hesterberg 2015: z' sqrt((n - 1) / n) = t of n - 1 degrees of freedom.
    """
    from scipy.special import ndtr, stdtrit

    tail = float(ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - LEVEL) / 2)))
    return tail, 1 - tail
