"""Metrics that count voxels. Undefined is None.

Formulas: Maier-Hein, Reinke et al. 2024, "Metrics reloaded" (Nature Methods 21), with tp, fp, fn in voxels.
"""

from __future__ import annotations

from medseg.metrics.pair import Pair

Values = dict[str, float | None]


def dice(pair: Pair) -> Values:
    """2 tp / (2 tp + fp + fn); 0 if one mask is empty, undefined if both are."""
    return {"dice": _ratio(2 * pair.tp, 2 * pair.tp + pair.fp + pair.fn)}


def iou(pair: Pair) -> Values:
    """Jaccard index tp / (tp + fp + fn); 0 if one mask is empty, undefined if both are."""
    return {"iou": _ratio(pair.tp, pair.tp + pair.fp + pair.fn)}


def precision(pair: Pair) -> Values:
    """Positive predictive value tp / (tp + fp); undefined for an empty prediction."""
    return {"precision": _ratio(pair.tp, pair.tp + pair.fp)}


def recall(pair: Pair) -> Values:
    """Sensitivity tp / (tp + fn); undefined for an empty reference."""
    return {"recall": _ratio(pair.tp, pair.tp + pair.fn)}


def volume(pair: Pair) -> Values:
    """Volumes in ml, and their difference: positive where the prediction is too large."""
    reference_ml = (pair.tp + pair.fn) * pair.voxel_volume_ml
    predicted_ml = (pair.tp + pair.fp) * pair.voxel_volume_ml
    return {
        "volume_reference_ml": reference_ml,
        "volume_predicted_ml": predicted_ml,
        "volume_error_ml": (pair.fp - pair.fn) * pair.voxel_volume_ml,
    }


def relative_volume_error(pair: Pair) -> Values:
    """(fp - fn) / (tp + fn): 0.1 is ten per cent too large; undefined for an empty reference."""
    return {"relative_volume_error": _ratio(pair.fp - pair.fn, pair.tp + pair.fn)}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
