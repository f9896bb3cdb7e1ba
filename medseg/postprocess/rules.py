"""Rules to choose from for one label, scored without applying them.

A rule may fill the label's cavities first and then drop some of its components. What it does to Dice follows
from the sizes of the components and how many of their voxels the reference holds, so components are found
twice a case (as predicted, and with every cavity filled) and serve all rules of all labels. Filling gives
background to a label and dropping gives it back: a rule for one label changes no other label's Dice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.postprocess.components import CLOSE, LabelMap, find_components
from medseg.postprocess.holes import fill_holes

QUANTILES = (0.0, 0.05, 0.25)  # smallest first, of the volumes of reference components
WELL_BELOW = 0.1  # of the smallest: so small that no reader drew it, and no whole organ is lost


@dataclass(frozen=True)
class Rule:
    """What is done to one label; the default is nothing.

    Args:
        fills: Whether cavities are filled, before anything is dropped.
        min_volume_mm3: Smaller components are dropped.
        largest: Whether all but the largest component are dropped.
    """

    fills: bool = False
    min_volume_mm3: float = 0.0
    largest: bool = False


@dataclass(frozen=True, eq=False)
class Pieces:
    """The components of one label.

    Args:
        sizes: (N,) voxels.
        hits: (N,) of them, how many the reference gives to the label.
    """

    sizes: NDArray[np.int64]
    hits: NDArray[np.int64]

    def count(self, rule: Rule, voxel_volume_mm3: float) -> tuple[int, int]:
        """Return voxels left, and how many of these are right."""
        if rule.largest:
            kept = self.sizes == self.sizes.max(initial=0)
        else:
            kept = self.sizes * voxel_volume_mm3 >= rule.min_volume_mm3 * (1 - CLOSE)
        return int(self.sizes[kept].sum()), int(self.hits[kept].sum())


@dataclass(frozen=True, eq=False)
class Outcome:
    """One label of one case: all that is needed to score any rule.

    Args:
        voxel_volume_mm3: Of the case's grid.
        reference_sizes: (M,) voxels of the reference's components.
        plain: Components as predicted.
        filled: Components once cavities are filled.
    """

    voxel_volume_mm3: float
    reference_sizes: NDArray[np.int64]
    plain: Pieces
    filled: Pieces

    def dice(self, rule: Rule) -> float | None:
        """Return Dice under a rule.

        None where reference and prediction are both empty as predicted: no rule changes that. Where a rule
        empties a prediction that has no reference, it turned 0 into what is right, which counts as 1.
        """
        wanted = int(self.reference_sizes.sum())
        if not wanted and not self.plain.sizes.size:
            return None
        left, right = (self.filled if rule.fills else self.plain).count(rule, self.voxel_volume_mm3)
        return 2 * right / (left + wanted) if left + wanted else 1.0


def measure_case(
    reference: LabelMap, predicted: LabelMap, geometry: Geometry, labels: Sequence[int]
) -> dict[int, Outcome]:
    """Return the outcome of every label.

    Args:
        reference: (I, J, K).
        predicted: (I, J, K), without the rules.
        geometry: Their grid, or one of the same voxel size.
        labels: Stored label values.
    """
    plain = _find_pieces(predicted, reference, labels)
    full = fill_holes(predicted, geometry)
    filled = plain if np.array_equal(full, predicted) else _find_pieces(full, reference, labels)
    drawn = _find_pieces(reference, reference, labels)
    volume = geometry.voxel_volume_mm3
    return {label: Outcome(volume, drawn[label].sizes, plain[label], filled[label]) for label in labels}


def _find_pieces(mask: LabelMap, reference: LabelMap, labels: Sequence[int]) -> Mapping[int, Pieces]:
    found = find_components(mask)
    hits = np.bincount(found.numbers[reference == mask], minlength=len(found.sizes))
    return {
        label: Pieces(found.sizes[own], hits[own])
        for label in labels
        for own in [found.owners == label]  # owner 0 is the background
    }


def list_rules(outcomes: Sequence[Outcome]) -> list[Rule]:
    """Return the rules worth trying, the one that changes least first; volumes come from the references."""
    parts = [outcome.reference_sizes * outcome.voxel_volume_mm3 for outcome in outcomes]
    volumes = np.concatenate(parts) if parts else np.zeros(0)
    limits: list[float] = []
    if volumes.size:
        drawn = np.quantile(volumes, QUANTILES, method="lower").tolist()
        limits = [WELL_BELOW * drawn[0], *drawn]
    dropping = [Rule(min_volume_mm3=limit) for limit in dict.fromkeys(map(_round_down, limits))]
    kept = [Rule(), *dropping, Rule(largest=True)]
    return [*kept, *(Rule(True, rule.min_volume_mm3, rule.largest) for rule in kept)]


def _round_down(volume_mm3: float) -> float:
    """Return four digits, never more than the volume: a component of just that size is to stay."""
    step = 10.0 ** (math.floor(math.log10(volume_mm3)) - 3)
    return float(f"{math.floor(volume_mm3 / step * (1 + CLOSE)) * step:.4g}")


def write_steps(rules: Mapping[int, Rule]) -> list[dict[str, Any]]:
    """Return the rules of all labels as entries of `infer.postprocess`: cavities of all labels come first.

    In that order each label gets just what its rule was scored with: a dropped speck inside another label's
    cavity does not change whether that cavity is one.
    """
    steps: list[dict[str, Any]] = []
    for name, chosen in (
        ("fill_holes", [label for label, rule in rules.items() if rule.fills]),
        ("keep_largest", [label for label, rule in rules.items() if rule.largest]),
    ):
        if chosen:
            steps.append({"name": name, "options": {"labels": chosen}})
    for label, rule in rules.items():
        if rule.min_volume_mm3:
            options = {"min_volume_mm3": rule.min_volume_mm3, "labels": [label]}
            steps.append({"name": "remove_small_components", "options": options})
    return steps
