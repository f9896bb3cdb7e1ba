"""How often each pair of labels meets: all overlap metrics of all labels from one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import DataError
from medseg.metrics.pair import LabelMap

Counts = Mapping[tuple[int, int], int]
SLAB = 1 << 22  # voxels at once: 32 MB of keys
WIDE = 2048  # a histogram of more values is a table that is mostly empty


def count_labels(reference: LabelMap, predicted: LabelMap) -> dict[tuple[int, int], int]:
    """Return (reference value, predicted value) -> voxels, for all pairs that occur.

    Args:
        reference: (I, J, K).
        predicted: (I, J, K).

    Raises:
        DataError: LABELS_NOT_INTEGER, or a negative label.
    """
    widths = [_measure_width(array) for array in (reference, predicted)]
    if max(widths) > WIDE:
        return _count_many(reference, predicted)
    table = np.zeros(widths[0] * widths[1], np.int64)
    axis = int(np.argmax(reference.shape))
    planes = [np.moveaxis(array, axis, 0) for array in (reference, predicted)]
    step = max(1, SLAB * len(planes[0]) // max(1, reference.size))
    for start in range(0, len(planes[0]), step):
        one, other = (plane[start : start + step] for plane in planes)
        keys = one.astype(np.int64) * widths[1]
        keys += other.astype(np.int64)
        table += np.bincount(keys.ravel(order="K"), minlength=table.size)
    return {(int(key) // widths[1], int(key) % widths[1]): int(table[key]) for key in np.flatnonzero(table)}


def _measure_width(array: NDArray[Any]) -> int:
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"labels are integers, not {array.dtype}", code="LABELS_NOT_INTEGER")
    if array.size and int(array.min()) < 0:
        raise DataError(f"labels are not negative, as {array.min()} is", code="LABEL_INVALID")
    return int(array.max(initial=0)) + 1


def _count_many(reference: LabelMap, predicted: LabelMap) -> dict[tuple[int, int], int]:
    """Return the same where values are large or many: numbered first, and background is not sorted."""
    is_any = (reference != 0) | (predicted != 0)
    (rows, one), (columns, other) = (
        np.unique(a[is_any], return_inverse=True) for a in (reference, predicted)
    )
    found, counts = np.unique(one.ravel() * len(columns) + other.ravel(), return_counts=True)
    pairs = zip(rows[found // len(columns)].tolist(), columns[found % len(columns)].tolist(), strict=True)
    background = {(0, 0): n} if (n := reference.size - int(np.count_nonzero(is_any))) else {}
    return background | dict(zip(pairs, counts.tolist(), strict=True))


def count_structure(counts: Counts, values: Sequence[int]) -> tuple[int, int, int]:
    """Return tp, fp and fn of the structure that `values` together are."""
    inside = set(values)
    tp = fp = fn = 0
    for (one, other), n in counts.items():
        if one in inside:
            tp, fn = (tp + n, fn) if other in inside else (tp, fn + n)
        elif other in inside:
            fp += n
    return tp, fp, fn


def fold_counts(counts: Counts, labels: Iterable[int]) -> dict[tuple[int, int], int]:
    """Return the counts with all values but `labels` as background."""
    known, folded = set(labels), dict[tuple[int, int], int]()
    for (one, other), n in counts.items():
        key = (one if one in known else 0, other if other in known else 0)
        folded[key] = folded.get(key, 0) + n
    return folded


def measure_miou(counts: Counts, labels: Iterable[int]) -> float | None:
    """Return the mean IoU over the labels that occur; None where none does."""
    found = [count_structure(counts, [value]) for value in labels]
    overlaps = [tp / (tp + fp + fn) for tp, fp, fn in found if tp + fp + fn]
    return sum(overlaps) / len(overlaps) if overlaps else None


def measure_accuracy(counts: Counts) -> float | None:
    """Return the share of voxels with the right label, background included; None without voxels."""
    n = sum(counts.values())
    return sum(count for (one, other), count in counts.items() if one == other) / n if n else None
