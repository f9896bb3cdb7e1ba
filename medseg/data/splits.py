"""Divide patients into folds, the same way every time.

Patients, not cases, are dealt, so that no patient is on two sides. They are ordered by which labels
they have and how much of them, and dealt in blocks of one per fold, so that every fold gets rare labels
and small and large ones alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from medseg.core.errors import ConfigError
from medseg.data.checks import Record


@dataclass(frozen=True)
class Splits:
    """Ids of a fixed test set, and per fold the ids to validate on."""

    test: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]

    def training(self, fold: int) -> tuple[str, ...]:
        """Return the ids that fold `fold` trains on, sorted."""
        others = (ids for index, ids in enumerate(self.folds) if index != fold)
        return tuple(sorted(case for ids in others for case in ids))

    def validation(self, fold: int) -> tuple[str, ...]:
        """Return the ids that fold `fold` holds out, sorted."""
        return self.folds[fold]


def split_cohort(
    records: Sequence[Record], *, folds: int, seed: int, test_share: float = 0.0, test_ids: Sequence[str] = ()
) -> Splits:
    """Return a patient-grouped, stratified, seeded split.

    Raises:
        ConfigError: Fewer patients than folds, or test ids that are not in the cohort.
    """
    known = {record.id for record in records}
    if unknown := [place for place, name in enumerate(test_ids, 1) if name not in known]:
        places = ", ".join(map(str, unknown[:5]))
        raise ConfigError(
            f"{len(unknown)} of {len(test_ids)} split.test_ids are not in the cohort (number {places})",
            hint="see check/cases.csv of the run for the ids",
        )
    patients = _order_patients(records, seed)
    test_patients = {record.patient for record in records if record.id in set(test_ids)}
    if test_share and not test_ids:
        count = max(1, round(test_share * len(patients)))
        step = np.linspace(0, len(patients) - 1, count).round().astype(int)  # evenly through the strata
        test_patients = {patients[index] for index in step}
    rest = [patient for patient in patients if patient not in test_patients]
    if len(rest) < folds:
        raise ConfigError(
            f"{len(rest)} patients cannot be split into {folds} folds",
            hint=f"set split.folds to at most {max(len(rest), 2)} or add patients",
            code="TOO_FEW_PATIENTS",
        )
    fold_of = _deal(rest, folds, seed)
    return Splits(
        tuple(sorted(record.id for record in records if record.patient in test_patients)),
        tuple(
            tuple(sorted(record.id for record in records if fold_of.get(record.patient) == fold))
            for fold in range(folds)
        ),
    )


def _order_patients(records: Sequence[Record], seed: int) -> list[str]:
    """Order patients by the labels they have, then by total foreground volume."""
    by_patient = groupby(sorted(records, key=lambda r: (r.patient, r.id)), key=lambda r: r.patient)
    strata = []
    for patient, own in by_patient:
        volumes = np.sum([np.array(r.voxels[1:]) * r.voxel_volume_mm3 for r in own], axis=0)
        strata.append((tuple((volumes > 0).tolist()), float(volumes.sum()), patient))
    return [patient for *_, patient in sorted(strata)]


def _deal(patients: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    for start in range(0, len(patients), folds):
        block = patients[start : start + folds]
        fold_of |= dict(zip(block, rng.permutation(folds)[: len(block)].tolist()))
    return fold_of
