"""Is an input like the training cases? One distance, and the share of training cases that are as far.

Features of the image (`image.py`) become robust z-scores; the distance is Mahalanobis's under a covariance
that is shrunk towards independence (Ledoit and Wolf 2004, J. Multivar. Anal. 88, section 3.2). Every training
case is measured by a fit without its part of the cohort; the p-value is conformal (`conformal.find_p`), so of
cases like them a share alpha has p <= alpha.

What the network says of itself is no feature here: each fold's network is sure in its own degree, and the
distance would tell networks apart, not cases. It has its own place in the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.inference.trust.conformal import find_p
from medseg.inference.trust.quality import round_all

FLOOR = 0.05  # least scale of a feature: cohorts may share one voxel size exactly, and 5 % more is no alarm
FARTHEST = 30.0  # z-scores are clipped: one voxel size in another unit would drown all else
UNUSUAL = 3.5  # |z| that is told (Iglewicz and Hoaglin 1993 for robust z-scores)
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Space:
    """Where the training cases lie: z-scores and their precision matrix."""

    median: Float
    scale: Float
    precision: Float

    def standardize(self, x: Float) -> Float:
        """Return clipped robust z-scores."""
        return np.asarray(np.clip((x - self.median) / self.scale, -FARTHEST, FARTHEST))

    def measure(self, x: Float) -> float:
        """Return the distance, about 1 for a usual case."""
        z = self.standardize(x)
        return math.sqrt(max(0.0, float(z @ self.precision @ z)) / len(z))


def fit_space(x_NP: Float) -> Space:
    """Fit medians, scales and the shrunk precision to the features of N cases."""
    median = np.median(x_NP, axis=0)
    mad: Float = 1.4826 * np.median(np.abs(x_NP - median), axis=0)
    scale: Float = np.maximum(mad, FLOOR).astype(np.float64)
    z = np.clip((x_NP - median) / scale, -FARTHEST, FARTHEST)
    return Space(median, scale, np.asarray(np.linalg.inv(shrink_covariance(z)), np.float64))


def shrink_covariance(z_NP: Float) -> Float:
    """Return Ledoit and Wolf's mean of the sample covariance (about 0) and a multiple of the identity.

    Their eq. 14: the weight of the identity is the variance of the sample covariance over its distance
    from the identity. At least 1 % remains, so that features which never vary have an inverse.
    """
    n, p = z_NP.shape
    sample = z_NP.T @ z_NP / n
    level = max(float(np.trace(sample)) / p, FLOOR)
    identity = level * np.eye(p)
    distance = float(((sample - identity) ** 2).sum())
    error = float(((z_NP**2).sum(1) ** 2).mean() - (sample**2).sum()) / n
    share = 1.0 if distance <= 0 else min(1.0, max(0.01, error / distance))
    return np.asarray(share * identity + (1 - share) * sample)


@dataclass(frozen=True)
class Outlier:
    """The space of all training cases, and how far each lies from the others.

    Args:
        names: (P,) of the features, in words.
        space: Fitted on all cases.
        distances: (N,) of each case, by a fit without its part.
        weights: (N,) of `conformal.weigh_patients`.
    """

    names: tuple[str, ...]
    space: Space
    distances: Float
    weights: Float

    def judge(self, x: Float) -> tuple[float, float, dict[str, float]]:
        """Return distance, p-value, and the z-scores of unusual features, the strangest first."""
        distance = self.space.measure(x)
        z = self.space.standardize(x)
        order = [place for place in np.argsort(-np.abs(z), kind="stable") if abs(z[place]) >= UNUSUAL]
        unusual = {self.names[place]: round(float(z[place]), 1) for place in order}
        return distance, find_p(distance, self.distances, self.weights), unusual

    def to_json(self) -> dict[str, Any]:
        """Return plain data, without a trace of which case is which."""
        order = np.argsort(self.distances, kind="stable")
        return {
            "names": list(self.names),
            "median": round_all(self.space.median),
            "scale": round_all(self.space.scale),
            "precision": [round_all(row) for row in self.space.precision],
            "distances": round_all(self.distances[order]),
            "weights": round_all(self.weights[order]),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Outlier:
        """Return what `to_json` described."""
        space = Space(*(np.array(tree[name], np.float64) for name in ("median", "scale", "precision")))
        told = (np.array(tree[name], np.float64) for name in ("distances", "weights"))
        return cls(tuple(tree["names"]), space, *told)


def fit_outlier(x_NP: Float, parts_N: NDArray[np.int64], weights_N: Float, names: Sequence[str]) -> Outlier:
    """Fit on all cases, and measure each by a fit without its part (at least two parts)."""
    distances = np.empty(len(x_NP))
    for part in np.unique(parts_N):
        space = fit_space(x_NP[parts_N != part])
        for place in np.flatnonzero(parts_N == part):
            distances[place] = space.measure(x_NP[place])
    return Outlier(tuple(names), fit_space(x_NP), distances, weights_N)
