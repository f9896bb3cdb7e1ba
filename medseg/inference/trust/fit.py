"""All that is learnt of trust from out-of-fold cases, and how it is kept in a model folder.

trust.json holds numbers without an order that tells which case is which, and no case id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import CheckpointError, DataError
from medseg.core.files import read_json
from medseg.inference.trust.calibration import (
    fit_temperatures,
    measure_calibration,
)
from medseg.inference.trust.conformal import weigh_patients
from medseg.inference.trust.outlier import Outlier, fit_outlier
from medseg.inference.trust.quality import LEVEL
from medseg.inference.trust.structure import Structure, check_intervals, fit_structures
from medseg.inference.trust.witness import Witness
from medseg.metrics.calibration import Bins
from medseg.metrics.columns import round_numbers

SCHEMA = 1
Decided = tuple[NDArray[np.float64], NDArray[np.bool_]]  # confidences, and whether they were right


@dataclass(frozen=True)
class Figures:
    """How well it works, on cases that had no say: for each part all is fitted on the other parts.

    `bins` are those of a reliability diagram, of calibrated confidences in sampled voxels (`sample.Sampler`).
    """

    cases: int
    patients: int
    ece_before: float
    ece_after: float
    dice_coverage: float | None
    volume_coverage: float | None
    bins: list[dict[str, float | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Trust:
    """What a calibrated model knows of its own reliability.

    `modalities` are those of the held-out scans, where DICOM told them: "CT", of several channels "PT+CT".
    """

    temperatures: tuple[float, ...]
    structures: tuple[Structure, ...]
    outlier: Outlier
    figures: Figures
    modalities: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the content of trust.json."""
        return {
            "schema": SCHEMA,
            "level": LEVEL,
            "temperatures": list(self.temperatures),
            "figures": asdict(self.figures),
            "structures": [structure.to_json() for structure in self.structures],
            "outlier": self.outlier.to_json(),
            "modalities": list(self.modalities),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Trust:
        """Return what `to_json` described."""
        return cls(
            tuple(tree["temperatures"]),
            tuple(Structure.from_json(row) for row in tree["structures"]),
            Outlier.from_json(tree["outlier"]),
            Figures(**tree["figures"]),
            tuple(tree.get("modalities", ())),  # models of earlier versions know none
        )


def load_trust(path: Path) -> Trust:
    """Read trust.json.

    Raises:
        CheckpointError: MODEL_SCHEMA, MODEL_DAMAGED.
    """
    try:
        tree = read_json(path)
    except DataError as error:
        raise CheckpointError(error.message, code="MODEL_DAMAGED") from error
    if tree.get("schema") != SCHEMA:
        raise CheckpointError(
            f"schema {tree.get('schema')} of {path.name} is not {SCHEMA}",
            hint="use the version that wrote it",
            code="MODEL_SCHEMA",
        )
    return Trust.from_json(tree)


def fit_trust(
    witnesses: Sequence[Witness],
    names: Sequence[str],
    image_names: Sequence[str],
    *,
    is_regions: bool,
    modalities: Sequence[str] = (),
) -> Trust:
    """Learn from out-of-fold cases, in at least two parts.

    Args:
        witnesses: A case each.
        names: Of the structures.
        image_names: Of `image.name_features`.
        is_regions: Whether structures overlap.
        modalities: Of all scans whose header told it.
    """
    parts = [witness.part for witness in witnesses]
    features = np.stack([witness.image for witness in witnesses])
    weights = weigh_patients([witness.patient for witness in witnesses])
    return Trust(
        _calibrate(witnesses, is_regions=is_regions),
        fit_structures(witnesses, names),
        fit_outlier(features, np.array(parts), weights, image_names),
        measure_figures(witnesses, names, is_regions=is_regions),
        tuple(sorted(set(modalities))),
    )


def measure_figures(witnesses: Sequence[Witness], names: Sequence[str], *, is_regions: bool) -> Figures:
    """Say how well it works: each part is judged by what the other parts teach."""
    before: list[Decided] = []
    after: list[Decided] = []
    inside: dict[str, list[bool]] = {"dice": [], "volume": []}
    for part in sorted({witness.part for witness in witnesses}):
        others = [witness for witness in witnesses if witness.part != part]
        own = [witness for witness in witnesses if witness.part == part]
        temperatures = _calibrate(others, is_regions=is_regions)
        before.append(_decide(own, (1.0,), is_regions=is_regions))
        after.append(_decide(own, temperatures, is_regions=is_regions))
        structures = fit_structures(others, names)
        for witness in own:
            for name, found in check_intervals(structures, witness).items():
                inside[name] += found
    calibrated = _sort(after)
    return Figures(
        cases=len(witnesses),
        patients=len({witness.patient for witness in witnesses}),
        ece_before=round(_sort(before).error or 0.0, 6),
        ece_after=round(calibrated.error or 0.0, 6),
        dice_coverage=_mean(inside["dice"]),
        volume_coverage=_mean(inside["volume"]),
        bins=round_numbers(calibrated.to_json()),
    )


def _calibrate(witnesses: Sequence[Witness], *, is_regions: bool) -> tuple[float, ...]:
    logits = np.concatenate([witness.logits for witness in witnesses])
    truth = np.concatenate([witness.truth for witness in witnesses])
    return fit_temperatures(logits, truth, is_regions=is_regions)


def _decide(witnesses: Sequence[Witness], temperatures: Sequence[float], *, is_regions: bool) -> Decided:
    logits = np.concatenate([witness.logits for witness in witnesses])
    truth = np.concatenate([witness.truth for witness in witnesses])
    return measure_calibration(logits, truth, temperatures, is_regions=is_regions)


def _sort(decided: Sequence[Decided]) -> Bins:
    confidence, is_right = (np.concatenate(column) for column in zip(*decided))
    return Bins.of(confidence, is_right)


def _mean(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
