"""Means, standard errors and intervals of structures over cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.intervals import Array, Interval, Resamples, cut
from medseg.metrics.table import STATES, Column, Key, Scores

OVER_ALL_SCANS = {"lesion_false_positives"}  # a scan without lesions and without findings counts
BOTH_EMPTY = STATES.index("both_empty")
WHOLE = ("miou", "pixel_accuracy", "ece", "ece_foreground")


def summarise_cases(
    scores: Scores, labels: Mapping[Key, Column], chosen: NDArray[np.bool_], resamples: Resamples
) -> dict[str, Any]:
    """Return "mean" and "labels" of the chosen cases.

    Args:
        scores: All cases.
        labels: Their columns.
        chosen: (N,) which cases count.
        resamples: Of all cases.
    """
    found, draws = {}, []
    for key, column in labels.items():
        found[str(key[1])], means = summarise_column(column, chosen, resamples)
        draws.append((column, means))
    names = list(dict.fromkeys(name for column in labels.values() for name in column.values))
    mean: dict[str, Any] = {}
    intervals: dict[str, Interval] = {}
    for name in names:
        mean[name] = average([row[name] for row in found.values() if name in row])
        per_case = _average_columns([select(column, name, chosen) for column in labels.values()])
        mean[f"{name}_se"] = standard_error(per_case)
        n = resamples.count_patients(per_case[:, None])[0]
        parts = [means[name] for _, means in draws if name in means]
        intervals[name] = cut(_average_columns(parts), n) if parts else None
    for name in WHOLE:
        values = np.where(chosen, scores.whole(name), np.nan)
        if name in WHOLE[:2] or not np.isnan(values).all():
            mean[name], mean[f"{name}_se"] = average(values.tolist()), standard_error(values)
            intervals[name] = resamples.intervals(values[:, None])[0]
    return {"mean": {**mean, "ci95": intervals}, "labels": found}


def summarise_column(
    column: Column, chosen: NDArray[np.bool_], resamples: Resamples
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the numbers of one structure, and the means of the resamples by value, where there are any."""
    counts = {
        f"n_{state}": int(np.count_nonzero(column.states[chosen] == STATES.index(state)))
        for state in ("both_empty", "missed", "spurious")
    }
    n = int(np.count_nonzero(chosen)) - counts["n_both_empty"]
    result: dict[str, Any] = {"name": column.name, "n": n, **counts}
    values = {name: select(column, name, chosen) for name in column.values}
    table = np.stack(list(values.values()), axis=1) if values else np.empty((chosen.size, 0))
    patients = resamples.count_patients(table)
    result["patients"] = max(patients, default=0)
    for name, numbers in values.items():
        result[name], result[f"{name}_se"] = average(numbers.tolist()), standard_error(numbers)
    means = resamples.means(table)
    result["ci95"] = dict(zip(values, resamples.intervals(table, means), strict=True))
    return result, {} if means is None else {name: means[:, at] for at, name in enumerate(values)}


def select(column: Column, name: str, chosen: NDArray[np.bool_]) -> Array:
    """Return (N,) of one value, NaN where it is undefined, not chosen or not to be counted."""
    if name not in column.values:
        return np.full(chosen.size, np.nan)
    counts = chosen if name in OVER_ALL_SCANS else chosen & (column.states != BOTH_EMPTY)
    return np.where(counts, column.values[name], np.nan)


def _average_columns(columns: list[Array]) -> Array:
    """Return the mean over columns of each row's defined values, NaN where there are none."""
    table = np.stack(columns)
    n = (~np.isnan(table)).sum(0)
    mean: Array = np.where(n > 0, np.nansum(table, 0) / np.maximum(n, 1), np.nan)
    return mean


def average(numbers: list[Any]) -> float | None:
    """Return the mean of what is defined, None of nothing."""
    defined = [number for number in numbers if number is not None and not math.isnan(number)]
    return math.fsum(defined) / len(defined) if defined else None


def standard_error(numbers: Array) -> float | None:
    """Return the sample standard deviation over the square root of the count, None below two numbers."""
    defined = numbers[~np.isnan(numbers)]
    return float(defined.std(ddof=1)) / math.sqrt(len(defined)) if len(defined) > 1 else None


def round_numbers(value: Any) -> Any:
    """Return plain data with six digits."""
    if isinstance(value, dict):
        return {key: round_numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [round_numbers(part) for part in value]
    return round(value, 6) if isinstance(value, float) else value
