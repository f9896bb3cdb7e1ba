"""One metric of every case of a result, and whether two results can be paired.

A result is a RUN folder, of which the held-out cases count, or a folder that `medseg evaluate` wrote.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import ConfigError
from medseg.core.files import read_if_whole
from medseg.workflows.held_out import is_same_mask
from medseg.workflows.run_folder import RunFolder

Label = tuple[str, str]
"""("1", "") of a label value, ("region", "whole tumour") of a region, which has a name alone."""

BEST_IS_ONE = {
    *("dice", "iou", "nsd", "nsd_area", "boundary_f1", "boundary_iou"),
    *("lesion_f1", "lesion_dice", "pq", "rq"),
}
"""Metrics that are 0 where one mask is empty: where both are, the prediction is right, which is 1."""

LOWER = ("error", "false_positives")
CALIBRATION_ERROR = "ece"
SAME_VOLUME = 1e-4  # relative: files hold six digits
VOLUMES = ("volume_reference_ml", "volume_predicted_ml")


@dataclass(frozen=True)
class Scores:
    """What a comparison needs of one result.

    Args:
        run: The RUN folder, None of an evaluate folder.
        names: Label -> how it is shown, in order of appearance.
        values: Case id -> label -> value of the metric, None where it is undefined.
        patients: Case id -> patient, as far as it is known.
        volumes_ml: (case id, label) -> volume of the reference, as far as it is known.
    """

    run: RunFolder | None
    names: Mapping[Label, str]
    values: Mapping[str, Mapping[Label, float | None]]
    patients: Mapping[str, str]
    volumes_ml: Mapping[tuple[str, Label], float]

    @property
    def run_id(self) -> str | None:
        """The MLflow run, None where the run was not tracked."""
        return read_if_whole(self.run.root / "tracking.json").get("run_id") if self.run else None


def load_scores(root: Path, metric: str) -> Scores:
    """Read the cases.csv of a result.

    Raises:
        ConfigError: RUN_MISSING, RUN_INCOMPLETE, METRIC_MISSING or SCORES_INVALID.
    """
    run = RunFolder(root) if (root / "config.yaml").is_file() else None
    path = (run.evaluation if run else root) / "cases.csv"
    if not path.is_file():
        if run:
            raise ConfigError(
                "the run has no scores yet", hint="run `medseg train` first", code="RUN_INCOMPLETE"
            )
        raise ConfigError(
            "this is neither a run folder nor one that `medseg evaluate` wrote",
            hint="give folders that hold evaluation/cases.csv or cases.csv",
            code="RUN_MISSING",
        )
    rows = _read_rows(path, metric)
    patients = {row["id"]: row["patient"] for row in rows if row.get("patient")}
    if run and (run.check / "cases.csv").is_file():
        patients = run.patients()
    names: dict[Label, str] = {}
    values: dict[str, dict[Label, float | None]] = {}
    volumes_ml: dict[tuple[str, Label], float] = {}
    for row in rows:
        name = row.get("name") or row["label"]
        is_region = row["label"] == "region"
        label = row["label"], name if is_region else ""
        names[label] = f"{name} (region)" if is_region else name
        value = _read_number(row[metric])
        values.setdefault(row["id"], {})[label] = abs(value) if value and is_error(metric) else value
        if (volume := _read_number(row.get(VOLUMES[0]) or "")) is not None:
            volumes_ml[row["id"], label] = volume
    return Scores(run, names, values, patients, volumes_ml)


def is_error(metric: str) -> bool:
    """Whether a metric has a sign, of which only the size is compared."""
    return metric.endswith("error") or "error_" in metric


def is_better_low(metric: str) -> bool:
    """Whether less is better: distances, errors, false findings."""
    return metric == CALIBRATION_ERROR or metric.endswith("_mm") or any(word in metric for word in LOWER)


def _read_rows(path: Path, metric: str) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    if not {"id", "label"} <= set(columns) or any(None in row.values() for row in rows):
        raise ConfigError(
            "cases.csv holds no scores", hint="give a run or an evaluation", code="SCORES_INVALID"
        )
    known = [name for name in columns if name not in {"id", "label", "name", "state", "patient", *VOLUMES}]
    if metric not in known:
        raise ConfigError(
            f"cases.csv has no metric `{metric}`", hint=f"it has {', '.join(known)}", code="METRIC_MISSING"
        )
    return rows


def _read_number(cell: str) -> float | None:
    try:
        number = float(cell) if cell else math.nan
    except ValueError:
        raise ConfigError(
            f"cases.csv holds `{cell[:20]}` where a number is needed",
            hint="evaluate again",
            code="SCORES_INVALID",
        ) from None
    return number if math.isfinite(number) else None


def check_references(a: Scores, b: Scores, cases: list[str]) -> str:
    """Return how far it is known that both were measured against the same references.

    Raises:
        ConfigError: REFERENCES_DIFFER.
    """
    are_masks_known = True
    for name in cases:
        one, other = _find_reference(a, name), _find_reference(b, name)
        are_masks_known = are_masks_known and bool(one and other)
        if (one and other and not is_same_mask(one, other)) or not _is_same_volume(a, b, name):
            raise ConfigError(
                f"A and B were measured against different references of {name}",
                hint="evaluate both against one set of references, with one label_map",
                code="REFERENCES_DIFFER",
            )
    if are_masks_known:
        return "the same voxels"
    return "the same volumes" if a.volumes_ml and b.volumes_ml else "not known"


def _find_reference(scores: Scores, name: str) -> Path | None:
    return next((scores.run.store / name).glob("reference.*"), None) if scores.run else None


def _is_same_volume(a: Scores, b: Scores, name: str) -> bool:
    pairs = ((a.volumes_ml.get((name, label)), b.volumes_ml.get((name, label))) for label in a.values[name])
    return all(
        math.isclose(one, other, rel_tol=SAME_VOLUME, abs_tol=1e-6)
        for one, other in pairs
        if one is not None and other is not None
    )
