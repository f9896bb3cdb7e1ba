"""Do probabilities mean what they say? Reliability bins, and the error that they sum up to.

Guo et al. 2017 (arXiv:1706.04599), eq. 3, after Naeini et al. 2015: equal bins (0, 1/15], (1/15, 2/15], ...;
the error is the mean over decisions of |share right - mean confidence| of their bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import DataError
from medseg.metrics.pair import LabelMap

BINS = 15


@dataclass(frozen=True, eq=False)
class Bins:
    """Decisions by confidence.

    Args:
        n: (15,) decisions.
        right: (15,) how many were right.
        confidence: (15,) sum of what they claimed.
    """

    n: NDArray[np.float64]
    right: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @classmethod
    def of(cls, confidence: NDArray[np.floating[Any]], is_right: NDArray[np.bool_], bins: int = BINS) -> Bins:
        """Sort decisions, both (N,), into bins."""
        place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
        counts = (np.bincount(place, weights, bins) for weights in (None, is_right, confidence))
        return cls(*(count.astype(np.float64) for count in counts))

    @classmethod
    def none(cls) -> Bins:
        """Return empty bins."""
        return cls(*np.zeros((3, BINS)))

    def __add__(self, other: Bins) -> Bins:
        return Bins(self.n + other.n, self.right + other.right, self.confidence + other.confidence)

    @property
    def error(self) -> float | None:
        """The expected calibration error; None without decisions."""
        n = float(self.n.sum())
        return float(np.abs(self.right - self.confidence).sum()) / n if n else None

    def to_json(self) -> list[dict[str, float | None]]:
        """Return a row per bin, as a reliability diagram shows them."""
        edges = np.linspace(0, 1, len(self.n) + 1).tolist()
        return [
            {
                "from": edges[at],
                "to": edges[at + 1],
                "n": int(n),
                "confidence": float(self.confidence[at]) / n if n else None,
                "accuracy": float(self.right[at]) / n if n else None,
            }
            for at, n in enumerate(self.n.tolist())
        ]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Of one case.

    Args:
        whole: Bins of the decision of each voxel: the most probable class, or each region's yes or no.
        foreground: The same where the reference or the decision is foreground.
        labels: Label value -> its calibration error one against the rest, over all voxels.
        regions: Name of a region -> the same.
    """

    whole: Bins
    foreground: Bins
    labels: Mapping[int, float | None] = field(default_factory=dict)
    regions: Mapping[str, float | None] = field(default_factory=dict)


def measure_calibration(
    reference: LabelMap,
    probabilities_CIJK: NDArray[np.floating[Any]],
    *,
    labels: Sequence[int] = (),
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore_label: int | None = None,
) -> Calibration:
    """Measure the calibration of one case, plane by plane.

    Args:
        reference: (I, J, K).
        probabilities_CIJK: Of classes, background first, or of regions; of one label its own alone will do.
        labels: Values that the classes behind background stand for, in ascending order.
        regions: Name -> values of the reference in it, where channels are regions.
        ignore_label: Value of the reference whose voxels count for nothing.

    Raises:
        DataError: PROBABILITIES_DIFFER: other channels than labels, or another grid.
    """
    values, is_regions = sorted(labels), bool(regions)
    is_single = not is_regions and len(probabilities_CIJK) == len(values) == 1
    outputs = len(regions or ()) if is_regions else 1 if is_single else len(values) + 1
    if probabilities_CIJK.shape != (outputs, *reference.shape):
        what = "regions" if is_regions else "labels and background"
        raise DataError(
            f"probabilities of shape {probabilities_CIJK.shape} are not those of "
            f"{len(regions or values)} {what} on {reference.shape}",
            hint="evaluate with the labels of the model: --labels",
            code="PROBABILITIES_DIFFER",
        )
    groups = list((regions or {}).values()) if is_regions else [[value] for value in values]
    first = 0 if is_regions else 1
    totals = [Bins.none(), Bins.none(), *(Bins.none() for _ in groups)]
    for plane in range(reference.shape[0]):
        true = reference[plane]
        is_used = np.ones(true.shape, bool) if ignore_label is None else true != ignore_label
        p_CN = np.asarray(probabilities_CIJK[:, plane], np.float64)[:, is_used]
        if is_single:
            p_CN = np.concatenate([1 - p_CN, p_CN])
        truth_FN = np.stack([np.isin(true[is_used], list(group)) for group in groups])
        found = _decide(p_CN, truth_FN, is_regions)
        found += [Bins.of(p_CN[first + at], truth) for at, truth in enumerate(truth_FN)]
        totals = [total + bins for total, bins in zip(totals, found, strict=True)]
    errors = [bins.error for bins in totals[2:]]
    if is_regions:
        return Calibration(totals[0], totals[1], regions=dict(zip(regions or {}, errors, strict=True)))
    return Calibration(totals[0], totals[1], labels=dict(zip(values, errors, strict=True)))


def _decide(p_CN: NDArray[np.float64], truth_FN: NDArray[np.bool_], is_regions: bool) -> list[Bins]:
    """Return the bins of all decisions, and of those at foreground."""
    if is_regions:
        is_yes = p_CN > 0.5
        confidence, is_right, near = np.maximum(p_CN, 1 - p_CN), is_yes == truth_FN, is_yes | truth_FN
        return [Bins.of(confidence.ravel(), is_right.ravel()), Bins.of(confidence[near], is_right[near])]
    chosen = p_CN.argmax(0)
    true = np.where(truth_FN.any(0), 1 + truth_FN.argmax(0), 0)
    confidence, is_right, near = p_CN.max(0), chosen == true, (chosen > 0) | (true > 0)
    return [Bins.of(confidence, is_right), Bins.of(confidence[near], is_right[near])]
