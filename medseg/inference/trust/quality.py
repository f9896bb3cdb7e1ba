"""Predicted Dice and volume of one structure, from what the logits say of it, with conformal intervals.

Two ridge regressions over out-of-fold cases. Dice is predicted on the logit scale and volume as the log of
the ratio of reference to predicted volume, so that intervals stay within 0..1 and above 0 ml and are as
wide as the structure is large; quantiles pass through such scales unchanged.

The features: expected Dice, 2 * hit / (mass + voxels), that is the Dice of the mask if every probability
were true (Li et al. 2022, arXiv:2207.09957, section 2.3); expected volume, the sum of probabilities, and its
standard deviation were voxels independent; faces per voxel, high for thin and scattered masks; and size.

Shape legend: N cases, P features; `sums` are a row of `observer.SUMS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.inference.trust.conformal import find_interval
from medseg.inference.trust.observer import SUMS

LEVEL = 0.9
EDGE = 0.01  # Dice is clipped to EDGE..1 - EDGE before its logit: a missed structure is not infinitely bad
SLACK = 1e-9
RIDGE = 1.0  # of standardised features: one case's worth of doubt
REACH = 4.0  # SD beyond which a feature says no more: a line is not to be trusted far outside its cases
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A ridge regression: intercept + weights @ clipped z-scores."""

    mean: Float
    scale: Float
    weights: Float
    intercept: float

    def predict(self, x: Float) -> Float:
        """Return (...,) of (..., P) features."""
        z = np.clip((x - self.mean) / self.scale, -REACH, REACH)
        return np.asarray(z @ self.weights + self.intercept)

    def to_json(self) -> list[list[float]]:
        """Return mean, scale and weights, and the intercept in a list of its own."""
        return [round_all(a) for a in (self.mean, self.scale, self.weights, np.array([self.intercept]))]

    @classmethod
    def from_json(cls, tree: Sequence[Sequence[float]]) -> Line:
        """Return the line that `to_json` described."""
        mean, scale, weights, intercept = (np.array(row, np.float64) for row in tree)
        return cls(mean, scale, weights, float(intercept[0]))


def fit_line(x_NP: Float, y_N: Float, weights_N: Float) -> Line:
    """Fit by weighted ridge regression; features that do not vary say nothing."""
    share = weights_N / weights_N.sum()
    mean = share @ x_NP
    scale = np.sqrt(share @ (x_NP - mean) ** 2)
    scale = np.where(scale > 1e-9, scale, 1.0)
    z = np.clip((x_NP - mean) / scale, -REACH, REACH)
    centre, level = share @ z, float(share @ y_N)
    z = z - centre
    gram = (z.T * weights_N) @ z + RIDGE * np.eye(z.shape[1])
    weights = np.linalg.solve(gram, (z.T * weights_N) @ (y_N - level))
    return Line(mean, scale, weights, level - float(centre @ weights))


@dataclass(frozen=True)
class Predictor:
    """A regression on all cases, and one without each part of them, with the residuals of that part.

    Args:
        whole: Fitted on all cases.
        without: (parts,) each fitted without one part.
        owner: (N,) the place in `without` of each case's part.
        residuals: (N,) absolute errors of the line fitted without the case.
        weights: (N,) of `conformal.weigh_patients`.
    """

    whole: Line
    without: tuple[Line, ...]
    owner: NDArray[np.int64]
    residuals: Float
    weights: Float

    def predict(self, x: Float) -> float:
        """Return the prediction of all cases for (P,) features."""
        return float(self.whole.predict(x))

    def find_interval(self, x: Float) -> tuple[float, float]:
        """Return the interval of `LEVEL` for (P,) features; infinite with few patients."""
        centres = np.array([float(line.predict(x)) for line in self.without])[self.owner]
        return find_interval(centres, self.residuals, self.weights, LEVEL)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, without a trace of which case is which."""
        order = np.lexsort((self.residuals, self.owner))
        return {
            "whole": self.whole.to_json(),
            "without": [line.to_json() for line in self.without],
            "owner": self.owner[order].tolist(),
            "residuals": round_all(self.residuals[order]),
            "weights": round_all(self.weights[order]),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Predictor:
        """Return the predictor that `to_json` described."""
        return cls(
            Line.from_json(tree["whole"]),
            tuple(Line.from_json(line) for line in tree["without"]),
            np.array(tree["owner"], np.int64),
            np.array(tree["residuals"], np.float64),
            np.array(tree["weights"], np.float64),
        )


def fit_predictor(x_NP: Float, y_N: Float, parts_N: NDArray[np.int64], weights_N: Float) -> Predictor:
    """Fit on all cases and without each part (at least two)."""
    found, owner = np.unique(parts_N, return_inverse=True)
    kept = [parts_N != part for part in found]
    without = tuple(fit_line(x_NP[keep], y_N[keep], weights_N[keep]) for keep in kept)
    said = np.array([line.predict(x_NP) for line in without])[owner, np.arange(len(y_N))]
    return Predictor(fit_line(x_NP, y_N, weights_N), without, owner, np.abs(y_N - said), weights_N)


def expect_dice(sums: Float) -> float:
    """Return the Dice that the probabilities promise; 0 where nothing was predicted."""
    row = dict(zip(SUMS, sums.tolist()))
    return 2 * row["hit"] / (row["mass"] + row["voxels"]) if row["voxels"] else 0.0


def dice_features(sums: Float) -> Float:
    """Return (3,): expected Dice, faces per voxel and size, on log scales."""
    voxels, faces = float(sums[0]), float(sums[SUMS.index("faces")])
    return np.array([to_logit(expect_dice(sums)), math.log((faces + 1) / (voxels + 1)), math.log(voxels + 1)])


def volume_features(sums: Float, offset: float) -> Float:
    """Return (3,): expected volume and its SD as shares of the predicted volume, and expected Dice.

    Args:
        sums: Of the structure.
        offset: Voxels added to every volume, so that empty ones have a logarithm.
    """
    row = dict(zip(SUMS, sums.tolist()))
    size = row["voxels"] + offset
    spread = math.log((math.sqrt(max(0.0, row["variance"])) + offset) / size)
    return np.array([math.log((row["mass"] + offset) / size), spread, to_logit(expect_dice(sums))])


def to_logit(share: float | Float) -> Any:
    """Return the logit of a share that is first clipped to EDGE..1 - EDGE."""
    clipped = np.clip(share, EDGE, 1 - EDGE)
    return np.log(clipped / (1 - clipped))


def from_logit(value: float) -> float:
    """Return the share; what lies at the clipped ends is all the way there."""
    share = 1 / (1 + math.exp(-max(-50.0, min(50.0, value))))
    return 0.0 if share < EDGE + SLACK else 1.0 if share > 1 - EDGE - SLACK else share


def round_all(values: NDArray[Any]) -> list[float]:
    """Return floats with seven significant digits."""
    return [float(f"{value:.7g}") for value in np.asarray(values, np.float64).ravel()]
