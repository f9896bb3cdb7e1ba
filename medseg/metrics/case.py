"""The metrics of one case: every label of a reference against a prediction."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medseg.core.errors import DataError
from medseg.metrics.calibration import Calibration
from medseg.metrics.counts import (
    Counts,
    count_labels,
    count_structure,
    fold_counts,
    measure_accuracy,
    measure_miou,
)
from medseg.metrics.overlap import Values
from medseg.metrics.pair import Box, LabelMap, Mask, Pair, State, check_grid, joint_box
from medseg.metrics.structure import find_structures

Metric = Callable[[Pair], Values]


@dataclass(frozen=True)
class LabelMetrics:
    """One label of one case: `state` says which of the two masks are empty, `values` hold no NaN."""

    name: str
    state: State
    values: Values


@dataclass(frozen=True)
class CaseMetrics:
    """One case.

    Args:
        case_id: Empty where the caller has no use for it.
        labels: Label value -> its metrics.
        regions: Name of a group of labels, taken as one structure -> its metrics.
        miou: Mean IoU over the foreground labels that are in the reference or the prediction.
        pixel_accuracy: Share of voxels with the right label; values not evaluated are background.
        options: Metric name -> its options, as they were used.
        confusion: (reference, predicted) label -> voxels; values not evaluated are background.
        calibration: Where there are probabilities.
    """

    case_id: str
    labels: Mapping[int, LabelMetrics]
    miou: float | None
    pixel_accuracy: float | None
    options: Mapping[str, Mapping[str, Any]]
    regions: Mapping[str, LabelMetrics] = field(default_factory=dict)
    confusion: Counts = field(default_factory=dict)
    calibration: Calibration | None = None


def evaluate_case(
    reference: LabelMap,
    predicted: LabelMap,
    spacing_mm: tuple[float, float, float],
    labels: Mapping[int, str] | None,
    metrics: Mapping[str, Metric],
    *,
    case_id: str = "",
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore_label: int | None = None,
) -> CaseMetrics:
    """Evaluate each label of one case.

    Args:
        reference: (I, J, K) integers.
        predicted: (I, J, K) integers on the same grid.
        spacing_mm: (3,) distance between voxel centres.
        labels: Label value (>= 1) -> name; None: all that occur, named by their number.
        metrics: Name -> metric with its options bound, as `select` returns it.
        case_id: Kept for `rows`.
        regions: Name -> values, of `labels` or not, that together are one structure.
        ignore_label: Value of the reference whose voxels count for nothing, in the prediction too.

    Raises:
        GeometryError: The grids differ.
        DataError: An array is not integer, or a label is not >= 1.
    """
    check_grid(reference, predicted, spacing_mm)
    n_ignored = 0
    if ignore_label is not None:
        n_ignored = int(np.count_nonzero(reference == ignore_label))
        reference, predicted = hide_ignored(reference, predicted, ignore_label)
    counts = count_labels(reference, predicted)
    if n_ignored:
        counts[0, 0] -= n_ignored
    if labels is None:
        labels = {value: str(value) for value in sorted({v for pair in counts for v in pair} - {0})}
    if min(labels, default=1) < 1:
        raise DataError(f"labels are >= 1, not {min(labels)}; 0 is background", code="LABEL_INVALID")
    maps = _Maps(reference, predicted, spacing_mm, counts)
    covered = {value for values in (regions or {}).values() for value in values}
    boxes = _find_boxes(reference, predicted, labels.keys() | covered)
    confusion = fold_counts(counts, labels)
    return CaseMetrics(
        case_id=case_id,
        labels={value: maps.measure([value], boxes, name, metrics) for value, name in labels.items()},
        miou=measure_miou(confusion, labels),
        pixel_accuracy=measure_accuracy(confusion),
        options=read_options(metrics),
        regions={
            name: maps.measure(values, boxes, name, metrics) for name, values in (regions or {}).items()
        },
        confusion=confusion,
    )


@dataclass(frozen=True, eq=False)
class _Maps:
    """Both label maps of a case; structures are cut out of them one at a time."""

    reference: LabelMap
    predicted: LabelMap
    spacing_mm: tuple[float, float, float]
    counts: Counts

    def measure(
        self, values: Sequence[int], boxes: Mapping[int, Box], name: str, metrics: Mapping[str, Metric]
    ) -> LabelMetrics:
        """Return the metrics of the structure that `values` together are."""
        box = joint_box([boxes[value] for value in values if boxes[value][0].stop], self.reference.shape)
        pair = Pair(
            _select(self.reference[box], values),
            _select(self.predicted[box], values),
            self.spacing_mm,
            counts=count_structure(self.counts, values),
        )
        return measure_pair(pair, name, metrics)


def _select(array: LabelMap, values: Sequence[int]) -> Mask:
    return array == values[0] if len(values) == 1 else np.isin(array, values)


def evaluate_instances(
    reference: LabelMap,
    predicted: LabelMap,
    spacing_mm: tuple[float, float, float],
    metrics: Mapping[str, Metric],
    *,
    case_id: str = "",
    ignore_label: int | None = None,
) -> CaseMetrics:
    """Evaluate one case whose maps hold object ids of one class, as label 1, "instances".

    Arguments as those of `evaluate_case`.
    """
    check_grid(reference, predicted, spacing_mm)
    masks = [(array != 0).astype(np.uint8) for array in (reference, predicted)]
    if ignore_label is not None:
        masks[0][reference == ignore_label] = 2
        reference, predicted = hide_ignored(reference, predicted, ignore_label)
    case = evaluate_case(
        masks[0], masks[1], spacing_mm, {1: "instances"}, {}, case_id=case_id, ignore_label=ignore_label and 2
    )
    pair = Pair(reference != 0, predicted != 0, spacing_mm, instances=(reference, predicted))
    found = {1: measure_pair(pair, "instances", metrics)}
    return replace(case, labels=found, options=read_options(metrics))


def hide_ignored(reference: LabelMap, predicted: LabelMap, ignore_label: int) -> tuple[LabelMap, LabelMap]:
    """Return both maps with background where the reference has the ignore label."""
    is_ignored = reference == ignore_label
    return np.where(is_ignored, 0, reference), np.where(is_ignored, 0, predicted)


def measure_pair(pair: Pair, name: str, metrics: Mapping[str, Metric]) -> LabelMetrics:
    """Return the metrics of one structure."""
    values = {key: _defined(number) for metric in metrics.values() for key, number in metric(pair).items()}
    return LabelMetrics(name, pair.state, values)


def _find_boxes(reference: LabelMap, predicted: LabelMap, labels: Iterable[int]) -> dict[int, Box]:
    """Return the joint bounding box of each label, found in one pass over each array."""
    found = [dict(find_structures(array)) for array in (reference, predicted)]
    return {value: joint_box([boxes.get(value) for boxes in found], reference.shape) for value in labels}


def _defined(number: float | None) -> float | None:
    """Turn the NaN or infinity of a metric from outside into None, which is how our files say undefined."""
    return number if number is not None and math.isfinite(number) else None


def read_options(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """Return metric name -> the options that are bound to it, defaults included."""
    return {name: _read_options(metric) for name, metric in metrics.items()}


def _read_options(metric: Metric) -> dict[str, Any]:
    parameters = inspect.signature(metric).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
