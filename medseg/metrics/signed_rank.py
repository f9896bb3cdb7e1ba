"""Does one of two results win more often, and by more, than a coin would? Wilcoxon 1945, Biometrics 1:80."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence

import numpy as np

METHOD = "Wilcoxon signed rank over patients, two-sided, equal ones dropped (scipy.stats.wilcoxon)"


def signed_rank(differences: Sequence[float], patients: Sequence[Hashable]) -> float | None:
    """Return the two-sided p of the patients' mean differences; None where all are zero.

    Args:
        differences: (N,) one a case; below a billionth they are rounding, and count as zero.
        patients: (N,) whose case it is: two scans of one patient are one witness.
    """
    from scipy.stats import wilcoxon

    found: dict[Hashable, list[float]] = {}
    for patient, difference in zip(patients, differences, strict=True):
        found.setdefault(patient, []).append(difference)
    means = np.round([np.mean(values) for values in found.values()], 9)
    if not means.any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "sample size too small", which n says, too
        return float(wilcoxon(means).pvalue)
