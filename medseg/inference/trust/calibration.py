"""Temperature scaling: one number that makes probabilities mean what they say.

Guo et al. 2017 (arXiv:1706.04599), section 4.2: logits are divided by T, found by minimising the negative
log-likelihood on cases that were not trained on. Every logit of a voxel is divided by the same T, so the
mask does not change. Regions that overlap are independent yes-or-no questions; each has a T of its own.

Shape legend: N sampled voxels, F outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medseg.inference.trust.observer import to_probabilities

LOWEST, HIGHEST = 0.05, 20.0  # of T


def fit_temperatures(
    logits_NF: NDArray[np.floating], truth_NF: NDArray[np.bool_], *, is_regions: bool
) -> tuple[float, ...]:
    """Return T: one for all classes, or one a region.

    Args:
        logits_NF: Of sampled voxels.
        truth_NF: Which outputs are right: one a row, or of regions any number.
        is_regions: Whether each output stands for itself.
    """
    logits, truth = torch.from_numpy(logits_NF.astype(np.float64)), torch.from_numpy(truth_NF)
    if not is_regions:
        return (_fit(logits, truth, is_regions=False),)
    return tuple(
        _fit(logits[:, [region]], truth[:, [region]], is_regions=True) for region in range(logits.shape[1])
    )


def _fit(logits: torch.Tensor, truth: torch.Tensor, *, is_regions: bool) -> float:
    """Minimise over log T; the likelihood has one maximum, since it is concave in 1 / T."""
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        scaled = logits / math.exp(log_t)
        if is_regions:
            return float(functional.binary_cross_entropy_with_logits(scaled, truth.double()))
        return float(functional.cross_entropy(scaled, truth.long().argmax(1)))

    found = minimize_scalar(
        loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded", options={"xatol": 1e-6}
    )
    return float(f"{math.exp(found.x):.6g}")


def measure_calibration(
    logits_NF: NDArray[np.floating],
    truth_NF: NDArray[np.bool_],
    temperatures: Sequence[float],
    *,
    is_regions: bool,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the confidence of every decision, (N,) or (N * F,), and whether it was right."""
    logits_FN = torch.from_numpy(logits_NF.T.astype(np.float64))
    p_NF = np.asarray(to_probabilities(logits_FN, temperatures, is_regions=is_regions)).T
    if is_regions:
        return np.maximum(p_NF, 1 - p_NF).ravel(), ((p_NF > 0.5) == truth_NF).ravel()
    chosen = p_NF.argmax(1)
    rows = np.arange(len(p_NF))
    return p_NF[rows, chosen], truth_NF[rows, chosen]
