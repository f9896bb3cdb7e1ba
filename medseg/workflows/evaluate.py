"""evaluate: masks against references, by any tool, paired by id.

A case is read, measured and forgotten: what stays is eight bytes a number (`metrics.table`), so the memory of
thousands of cases is that of one. Labels that nobody listed are found while the cases are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from medseg.core.errors import DataError, GeometryError
from medseg.core.files import make_folder, write_csv, write_json
from medseg.core.volume import Labels
from medseg.io import read_labels
from medseg.metrics import (
    CaseMetrics,
    Metric,
    Pair,
    Scores,
    evaluate_case,
    evaluate_instances,
    iterate_rows,
    summarise,
)
from medseg.metrics.case import measure_pair
from medseg.metrics.chosen import choose_metrics
from medseg.workflows.calibrate import Channels, add_calibration
from medseg.workflows.pairs import Cohort, Pairs
from medseg.workflows.parallel import Workers
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report

KNOWN, UNKNOWN = "as the run or the table of groups names them", "not known: every case counts as one"


@dataclass(frozen=True)
class Comparison:
    """How pairs are compared.

    Args:
        labels: Value -> name; None: all that occur, named by their number.
        metrics: Name -> metric, its options bound; None: the default set.
        regions: As in `evaluate_case`.
        ignore_label: As in `evaluate_case`.
        is_instances: Whether the maps hold ids of objects of one class.
    """

    labels: Mapping[int, str] | None = None
    metrics: Mapping[str, Metric] | None = None
    regions: Mapping[str, Sequence[int]] | None = None
    ignore_label: int | None = None
    is_instances: bool = False


def evaluate(
    pairs: Pairs,
    comparison: Comparison,
    out: Path,
    *,
    progress: Progress,
    report: Report,
    cohort: Cohort | None = None,
    workers: Workers | None = None,
) -> Scores:
    """Compare (reference, predicted) pairs and write OUT/{cases.csv,metrics.json}.

    A pair that cannot be compared is reported and the others go on. Where ID_prob.nii.gz lies beside a mask,
    its calibration is measured too.

    Returns:
        One result per comparable case, by id.
    """
    make_folder(out)
    comparison = (
        comparison if comparison.metrics is not None else replace(comparison, metrics=choose_metrics())
    )
    metrics, names = comparison.metrics or {}, list(pairs)
    empty = np.zeros((3, 3, 3), bool)
    n_pictures = 0
    scores = Scores(measure_pair(Pair(empty, empty, (1.0, 1.0, 1.0)), "", metrics).values)
    with progress.track("evaluate", len(pairs)) as advance:
        for index, result in (workers or Workers(1)).map(
            partial(_evaluate_pair, comparison=comparison),
            list(pairs.items()),
            stage="evaluate",
            name=lambda item: item[0],
        ):
            if isinstance(result, DataError):
                report.add(CaseResult.of_error(names[index], result))
            else:
                scores.add(result.case)
                n_pictures += result.is_picture
                report.add(CaseResult(names[index], "done", warnings=result.warnings))
            advance(names[index])
    known = cohort or Cohort()
    summary = summarise(scores, patients=known.patients, groups=known.groups)
    summary["intervals"]["whose"] = KNOWN if known.patients else UNKNOWN
    if comparison.ignore_label is not None:
        summary["definitions"]["ignore_label"] = comparison.ignore_label
    if n_pictures and n_pictures == len(scores):
        summary["definitions"]["units"] = "pixels: mm is their number, ml a thousandth of it"
    columns, table = ["id", "label", "name", "state", *scores.value_names], iterate_rows(scores)
    if known.patients:
        columns.insert(1, "patient")
        numbers = number_patients(scores.ids, known.patients)
        table = ({**row, "patient": numbers.get(row["id"], "")} for row in table)
    write_csv(out / "cases.csv", table, columns)
    write_json(out / "metrics.json", summary)
    report.extra["metrics"] = summary
    return scores


def number_patients(ids: Sequence[str], patients: Mapping[str, str]) -> dict[str, str]:
    """Return case id -> p1, p2, ...: which cases are of one patient, and not of whom."""
    numbers: dict[str, str] = {}
    return {
        name: numbers.setdefault(patients[name], f"p{len(numbers) + 1}") for name in ids if patients.get(name)
    }


@dataclass(frozen=True)
class _Compared:
    case: CaseMetrics
    is_picture: bool
    warnings: tuple[tuple[str, str], ...] = ()


def _evaluate_pair(item: tuple[str, tuple[Path, Path]], *, comparison: Comparison) -> _Compared | DataError:
    name, (reference_path, predicted_path) = item
    try:
        reference, predicted = read_labels(reference_path), read_labels(predicted_path)
        if difference := reference.geometry.differs_from(predicted.geometry):
            raise GeometryError(
                f"reference and prediction lie on different grids: {difference}",
                hint="resample one onto the other's grid first",
                code="GRID_MISMATCH",
            )
        case = _compare(name, reference, predicted, comparison)
    except DataError as error:
        return error
    is_picture = reference.geometry.is_picture
    if comparison.is_instances:
        return _Compared(case, is_picture)
    known = Channels(list(comparison.labels or ()), comparison.regions or {})
    try:
        case = add_calibration(case, (predicted_path, predicted), reference, known, comparison.ignore_label)
    except DataError as error:
        return _Compared(case, is_picture, ((error.code, f"no calibration: {error.message}"),))
    return _Compared(case, is_picture)


def _compare(name: str, reference: Labels, predicted: Labels, comparison: Comparison) -> CaseMetrics:
    arrays, spacing_mm = (reference.array, predicted.array), reference.geometry.spacing_mm
    metrics, ignored = comparison.metrics or {}, comparison.ignore_label
    if comparison.is_instances:
        return evaluate_instances(*arrays, spacing_mm, metrics, case_id=name, ignore_label=ignored)
    return evaluate_case(
        *arrays,
        spacing_mm,
        comparison.labels,
        metrics,
        case_id=name,
        regions=comparison.regions,
        ignore_label=ignored,
    )
