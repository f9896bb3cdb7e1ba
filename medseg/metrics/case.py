"""The metrics of one case: every label of a reference against a prediction."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import DataError
from medseg.metrics.overlap import Values, iou
from medseg.metrics.pair import Box, Pair, State, check_grid, joint_box

Metric = Callable[[Pair], Values]
LabelMap = NDArray[np.integer[Any]]


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
    """

    case_id: str
    labels: Mapping[int, LabelMetrics]
    miou: float | None
    pixel_accuracy: float | None
    options: Mapping[str, Mapping[str, Any]]
    regions: Mapping[str, LabelMetrics] = field(default_factory=dict)


def evaluate_case(
    reference: LabelMap,
    predicted: LabelMap,
    spacing_mm: tuple[float, float, float],
    labels: Mapping[int, str],
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
        labels: Label value (>= 1) -> name.
        metrics: Name -> metric with its options bound, as `select` returns it.
        case_id: Kept for `rows`.
        regions: Name -> values of `labels` that together are one structure.
        ignore_label: Value of the reference whose voxels count for nothing, in the prediction too.

    Raises:
        GeometryError: The grids differ.
        DataError: An array is not integer, or a label is not >= 1.
    """
    check_grid(reference, predicted, spacing_mm)
    if min(labels, default=1) < 1:
        raise DataError(f"labels are >= 1, not {min(labels)}; 0 is background", code="LABEL_INVALID")
    n_voxels = reference.size
    if ignore_label is not None:
        n_voxels -= int(np.count_nonzero(reference == ignore_label))
        reference, predicted = hide_ignored(reference, predicted, ignore_label)
    boxes = _find_boxes(reference, predicted, labels)
    found, overlaps = {}, []
    for value, name in labels.items():
        box = boxes[value]
        pair = Pair(reference[box] == value, predicted[box] == value, spacing_mm)
        overlaps.append(iou(pair)["iou"])
        found[value] = _measure(pair, name, metrics)
    groups = {}
    for name, values in (regions or {}).items():
        box = joint_box([boxes[value] for value in values if boxes[value][0].stop], reference.shape)
        pair = Pair(np.isin(reference[box], values), np.isin(predicted[box], values), spacing_mm)
        groups[name] = _measure(pair, name, metrics)
    defined = [overlap for overlap in overlaps if overlap is not None]
    return CaseMetrics(
        case_id=case_id,
        labels=found,
        miou=sum(defined) / len(defined) if defined else None,
        pixel_accuracy=_measure_accuracy(reference, predicted, boxes, n_voxels),
        options={name: _read_options(metric) for name, metric in metrics.items()},
        regions=groups,
    )


def hide_ignored(reference: LabelMap, predicted: LabelMap, ignore_label: int) -> tuple[LabelMap, LabelMap]:
    """Return both maps with background where the reference has the ignore label."""
    is_ignored = reference == ignore_label
    return np.where(is_ignored, 0, reference), np.where(is_ignored, 0, predicted)


def _measure(pair: Pair, name: str, metrics: Mapping[str, Metric]) -> LabelMetrics:
    values = {key: _defined(number) for metric in metrics.values() for key, number in metric(pair).items()}
    return LabelMetrics(name, pair.state, values)


def _find_boxes(reference: LabelMap, predicted: LabelMap, labels: Mapping[int, str]) -> dict[int, Box]:
    """Return the joint bounding box of each label, found in one pass over each array."""
    from scipy.ndimage import find_objects

    found = []
    for array in (reference, predicted):
        if not np.issubdtype(array.dtype, np.integer):
            raise DataError(f"labels are integers, not {array.dtype}", code="LABELS_NOT_INTEGER")
        found.append(find_objects(array, max_label=max(labels, default=1)))
    return {value: joint_box([boxes[value - 1] for boxes in found], reference.shape) for value in labels}


def _measure_accuracy(
    reference: LabelMap, predicted: LabelMap, boxes: Mapping[int, Box], n_voxels: int
) -> float | None:
    """Return the share of `n_voxels` voxels that agree; outside all boxes both are background."""
    if not n_voxels:
        return None
    filled = [box for box in boxes.values() if box[0].stop]
    box = joint_box(filled, reference.shape)
    inside_reference, inside_predicted = reference[box], predicted[box]
    wrong = inside_reference != inside_predicted
    pairs = np.stack([inside_reference[wrong], inside_predicted[wrong]])
    pairs[~np.isin(pairs, list(boxes))] = 0
    return 1 - int(np.count_nonzero(pairs[0] != pairs[1])) / n_voxels


def _defined(number: float | None) -> float | None:
    """Turn the NaN or infinity of a metric from outside into None, which is how our files say undefined."""
    return number if number is not None and math.isfinite(number) else None


def _read_options(metric: Metric) -> dict[str, Any]:
    parameters = inspect.signature(metric).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
