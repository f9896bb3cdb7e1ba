"""One structure's predicted Dice and volume, and what is usual of it.

Shape legend: N cases, L structures (labels, or regions that overlap).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.inference.trust.conformal import weigh_patients
from medseg.inference.trust.observer import SUMS
from medseg.inference.trust.quality import (
    Predictor,
    dice_features,
    fit_predictor,
    from_logit,
    to_logit,
    volume_features,
)
from medseg.inference.trust.witness import Witness

MIN_PATIENTS = 10  # below 9 no interval of 90 % is finite: ceil(0.9 * (n + 1)) > n
OFFSET = 0.01  # of the median reference volume: added before logarithms, at least a voxel
ALPHA = 0.05  # share of cases like the held-out ones that each single reason may hit
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Structure:
    """What is known of one structure.

    Args:
        name: Of the label or region.
        dice, volume: Predictors; None where fewer than `MIN_PATIENTS` tell.
        offset_mm3: Added to volumes before logarithms.
        low_dice: The Dice that all but `ALPHA` of the held-out cases reach.
        present: Share of the held-out cases whose reference holds it.
        high_rim: The share of predicted voxels at the border of the image that all but `ALPHA` stay within.
        volumes_mm3: Smallest and largest reference that is not empty; (0, inf) where there is none.
    """

    name: str
    dice: Predictor | None
    volume: Predictor | None
    offset_mm3: float
    low_dice: float
    present: float
    volumes_mm3: tuple[float, float]
    high_rim: float

    def predict_dice(self, sums: Float) -> tuple[float, float, float] | None:
        """Return predicted Dice, and the ends of its interval; None where nothing can be said."""
        if self.dice is None or not sums[0]:
            return None
        x = dice_features(sums)
        low, high = self.dice.find_interval(x)
        return from_logit(self.dice.predict(x)), from_logit(low), from_logit(high)

    def predict_volume(self, sums: Float, voxel_mm3: float) -> tuple[float, float, float] | None:
        """Return predicted volume in mm3, and the ends of its interval; None where nothing can be said."""
        if self.volume is None:
            return None
        x = volume_features(sums, self.offset_mm3 / voxel_mm3)
        size = float(sums[0]) * voxel_mm3 + self.offset_mm3
        ends = (self.volume.predict(x), *self.volume.find_interval(x))
        value, low, high = (max(0.0, size * math.exp(min(end, 50.0)) - self.offset_mm3) for end in ends)
        return value, low, high if math.isfinite(ends[2]) else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        low, high = self.volumes_mm3
        return {
            **{name: value for name, value in vars(self).items() if isinstance(value, (str, float))},
            "volumes_mm3": [low, high] if math.isfinite(high) else None,
            "dice": self.dice and self.dice.to_json(),
            "volume": self.volume and self.volume.to_json(),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Structure:
        """Return the structure that `to_json` described."""
        low, high = tree["volumes_mm3"] or (0.0, math.inf)
        predictors = {name: tree[name] and Predictor.from_json(tree[name]) for name in ("dice", "volume")}
        return cls(**{**tree, **predictors, "volumes_mm3": (low, high)})


def fit_structures(witnesses: Sequence[Witness], names: Sequence[str]) -> tuple[Structure, ...]:
    return tuple(_fit_structure(witnesses, place, name) for place, name in enumerate(names))


def _fit_structure(witnesses: Sequence[Witness], place: int, name: str) -> Structure:
    volumes = np.array([witness.volume_mm3[place] for witness in witnesses])
    held = volumes[volumes > 0]
    voxel = max(witness.voxel_mm3 for witness in witnesses)
    offset = max(voxel, OFFSET * float(np.median(held))) if held.size else voxel
    told = [w for w in witnesses if not math.isnan(w.dice[place]) and w.sums[place, 0]]
    dice = [w.dice[place] for w in told]
    rims = [w.sums[place, SUMS.index("rim")] / w.sums[place, 0] for w in told]
    ratios = [
        math.log((w.volume_mm3[place] + offset) / (w.sums[place, 0] * w.voxel_mm3 + offset))
        for w in witnesses
    ]
    sized = [volume_features(w.sums[place], offset / w.voxel_mm3) for w in witnesses]
    return Structure(
        name,
        _learn(told, [dice_features(w.sums[place]) for w in told], to_logit(np.array(dice))),
        _learn(witnesses, sized, np.array(ratios)) if held.size else None,
        offset,
        float(np.quantile(dice, ALPHA)) if dice else 0.0,
        float((volumes > 0).mean()),
        (float(held.min()), float(held.max())) if held.size else (0.0, math.inf),
        float(np.quantile(rims, 1 - ALPHA)) if rims else 0.0,
    )


def _learn(witnesses: Sequence[Witness], x: Sequence[Float], y: Float) -> Predictor | None:
    parts = np.array([witness.part for witness in witnesses])
    patients = [witness.patient for witness in witnesses]
    if len(set(patients)) < MIN_PATIENTS or len(set(parts.tolist())) < 2:
        return None
    return fit_predictor(np.stack(x), y, parts, weigh_patients(patients))


def check_intervals(structures: Sequence[Structure], witness: Witness) -> dict[str, list[bool]]:
    """Return, for each structure that has an interval, whether it holds the truth."""
    found: dict[str, list[bool]] = {"dice": [], "volume": []}
    for place, structure in enumerate(structures):
        sums, dice = witness.sums[place], float(witness.dice[place])
        if (said := structure.predict_dice(sums)) and not math.isnan(dice):
            found["dice"].append(said[1] <= dice <= said[2])
        if said := structure.predict_volume(sums, witness.voxel_mm3):
            found["volume"].append(said[1] <= float(witness.volume_mm3[place]) <= said[2])
    return found
