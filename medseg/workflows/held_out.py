"""The Dice of a finished run's held-out cases, and whether two runs' can be paired."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from medseg.core.errors import ConfigError
from medseg.core.files import sha256_of_file
from medseg.io import read_labels
from medseg.workflows.run_folder import RunFolder


@dataclass(frozen=True)
class HeldOutScores:
    """What a comparison needs of one run.

    Args:
        name: Of the run, as it is shown.
        folder: The run.
        folds: Those whose training has ended.
        fold_of: Case id -> the fold that held it out.
        patients: Case id -> patient.
        labels: Label value -> name.
        dice: Case id -> label value -> Dice, None where both masks are empty.
        training_s: Seconds of training, mean over folds.
        parameters: Numbers in the weights of one fold.
    """

    name: str
    folder: RunFolder
    folds: list[int]
    fold_of: dict[str, int]
    patients: dict[str, str]
    labels: dict[str, str]
    dice: dict[str, dict[str, float | None]]
    training_s: float
    parameters: int

    @property
    def cost(self) -> tuple[float, int]:
        """Less is cheaper, and of equals simpler."""
        return self.training_s, self.parameters


def name_runs(roots: Sequence[Path]) -> list[str]:
    """Return the shortest distinct names: the folder's, with as many parents as that takes.

    Raises:
        ConfigError: Fewer than two runs, or the same one twice.
    """
    paths = [root.resolve() for root in roots]
    if len(set(paths)) < max(2, len(paths)):
        raise ConfigError("two or more different runs are compared", hint="give their folders")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def load_scores(run: RunFolder, name: str) -> HeldOutScores:
    """Read RUN/evaluation/cases.csv and what it stands beside.

    Raises:
        ConfigError: RUN_MISSING, or RUN_INCOMPLETE: no fold is trained, or not every held-out case is scored.
    """
    config, splits, folds = run.load_config(), run.load_splits(), run.trained_folds
    path = run.evaluation / "cases.csv"
    if not folds or not path.exists():
        raise ConfigError(
            f"{name}: nothing was trained", hint="run `medseg train` first", code="RUN_INCOMPLETE"
        )
    dice: dict[str, dict[str, float | None]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            value = float(row["dice"]) if row["dice"] else None
            dice.setdefault(row["id"], {})[row["label"]] = value
    fold_of = {case: fold for fold in folds for case in splits.validation(fold)}
    if strangers := sorted(dice.keys() ^ fold_of.keys()):
        raise ConfigError(
            f"{name}: the evaluation is not of the trained folds' cases ({', '.join(strangers[:5])})",
            hint="run `medseg train` again: it predicts and evaluates what is missing",
            code="RUN_INCOMPLETE",
        )
    weights = run.model / f"weights_fold_{folds[0]}.safetensors"
    labels = {str(value): label for value, label in config.data.labels.items()}
    seconds = sum(_read_seconds(run.fold(fold) / "history.csv") for fold in folds) / len(folds)
    return HeldOutScores(
        name, run, folds, fold_of, run.patients(), labels, dice, seconds, _count_parameters(weights)
    )


def _read_seconds(path: Path) -> float:
    with path.open(encoding="utf-8", newline="") as stream:
        return sum(float(row.get("time/epoch_s") or 0) for row in csv.DictReader(stream))


def _count_parameters(path: Path) -> int:
    """Read the header of a safetensors file: its length in 8 bytes, then JSON."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def refuse_differences(one: HeldOutScores, other: HeldOutScores) -> None:
    """Refuse two runs whose cases cannot be paired.

    Raises:
        ConfigError: LABELS_DIFFER, SPLITS_DIFFER, CASES_DIFFER or REFERENCES_DIFFER.
    """
    pair = f"{one.name} and {other.name}"
    if one.labels != other.labels:
        raise ConfigError(f"{pair} have different labels", hint="use one set of labels", code="LABELS_DIFFER")
    common = one.fold_of.keys() & other.fold_of.keys()
    moved = sorted(case for case in common if one.fold_of[case] != other.fold_of[case])
    if moved or one.folder.load_splits().test != other.folder.load_splits().test:
        raise ConfigError(
            f"{pair} divide the cases differently ({', '.join(moved[:5]) or 'another test set'})",
            hint="the same split, seed and data for both",
            code="SPLITS_DIFFER",
        )
    if strangers := sorted(one.fold_of.keys() ^ other.fold_of.keys()):
        raise ConfigError(
            f"{pair} hold out different cases: folds {one.folds} and {other.folds}, "
            f"{len(strangers)} cases in one only ({', '.join(strangers[:5])})",
            hint="train the same folds of both: medseg train RUN --fold K",
            code="CASES_DIFFER",
        )
    for case in sorted(common):
        if not is_same_mask(one.folder.case(case).reference, other.folder.case(case).reference):
            raise ConfigError(
                f"{pair} have different references for {case}",
                hint="the same data and label_map for both",
                code="REFERENCES_DIFFER",
            )


def is_same_mask(one: Path, other: Path) -> bool:
    """Whether two files hold the same labels on one grid; their bytes may differ with the compressor."""
    if sha256_of_file(one) == sha256_of_file(other):
        return True
    first, second = read_labels(one), read_labels(other)
    return not first.geometry.differs_from(second.geometry) and np.array_equal(first.array, second.array)
