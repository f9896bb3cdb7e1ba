"""Intervals and p-values that hold at a stated rate, whatever the distribution.

The residual of each case comes from a predictor that was fitted without its part of the cohort. A new
case's interval pools over all cases what *their* predictor says of it, plus or minus their residual: the
CV+ interval (Barber et al. 2021, arXiv:1905.02928, eq. 3 of section 3), which covers at least 1 - 2 alpha
of exchangeable cases and in practice close to 1 - alpha. P-values are cross-conformal (Vovk 2015,
arXiv:1208.0806).

Several cases of one patient are one witness: each weighs 1 / (cases of the patient), and quantiles are
those of the patients' pooled distribution (Dunn, Wasserman and Ramdas 2022, arXiv:1809.07441).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SLACK = 1e-9  # shares are sums of 1 / n


def weigh_patients(patients: Sequence[str]) -> NDArray[np.float64]:
    """Return (N,) one over the number of cases of the same patient."""
    counts = Counter(patients)
    return np.array([1 / counts[patient] for patient in patients])


def find_quantile(scores: NDArray[np.float64], weights: NDArray[np.float64], level: float) -> float:
    """Return the lowest score that at least `level` of the patients, and a new one, do not exceed.

    Of n patients with a case each it is the ceil(level * (n + 1))-th smallest score; infinite where that
    is more than n.
    """
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(weights[order])
    needed = level * (weights.sum() + 1) - SLACK
    place = int(np.searchsorted(below, needed))
    return float(scores[order][place]) if place < len(scores) else math.inf


def find_interval(
    centres: NDArray[np.float64],
    residuals: NDArray[np.float64],
    weights: NDArray[np.float64],
    level: float,
) -> tuple[float, float]:
    """Return the CV+ interval of a new case.

    Args:
        centres: (N,) what the predictor fitted without case n says of the new one.
        residuals: (N,) the absolute error of that predictor at case n.
        weights: (N,) of `weigh_patients`.
        level: Share of new cases that the interval is to hold.
    """
    high = find_quantile(centres + residuals, weights, level)
    return -find_quantile(residuals - centres, weights, level), high


def find_p(score: float, scores: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the share of patients, the new one among them, that are at least as strange."""
    return float((1 + weights[scores >= score].sum()) / (1 + weights.sum()))
