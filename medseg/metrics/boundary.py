"""Metrics of what lies at the boundary (boundary voxels, see `pair`). Undefined is None."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.overlap import Values
from medseg.metrics.pair import Mask, Pair
from medseg.metrics.surface import check_tolerance


def boundary_f1(pair: Pair, *, tolerance_mm: float = 1.0) -> Values:
    """Boundary F1 (BF score): harmonic mean of the shares of either boundary within a tolerance of the other.

    Csurka et al. 2013 ("What is a good evaluation measure for semantic segmentation?", BMVC), who take
    0.75 % of the image's diagonal; here it is a distance, so that it means the same in every scan. NSD pools
    both boundaries, this averages their shares: a small boundary counts as much as a large one. 0 if one mask
    is empty, undefined if both are.

    Args:
        pair: The two masks.
        tolerance_mm: Accepted distance, itself included.
    """
    check_tolerance(tolerance_mm)
    if pair.state == "both_empty":
        return {"boundary_f1": None}
    if pair.state != "present":
        return {"boundary_f1": 0.0}
    recall, precision = (float(np.mean(distances <= tolerance_mm)) for distances in pair.distances_mm)
    return {"boundary_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0}


def boundary_iou(pair: Pair, *, width_mm: float = 2.0) -> Values:
    """Boundary IoU: the IoU of the parts of both masks that lie within `width_mm` of their own boundary.

    Cheng et al. 2021 (arXiv:2103.16562), eq. 1, who take 2 % of the image's diagonal and count steps of 3 x 3
    pixels; here distances are Euclidean, in mm, to the nearest boundary voxel. Boundary voxels themselves
    always belong, so a width of 0 compares bare outlines. 0 if one mask is empty, undefined if both are.

    Args:
        pair: The two masks.
        width_mm: Of the band, itself included.
    """
    check_tolerance(width_mm)
    if pair.state == "both_empty":
        return {"boundary_iou": None}
    if pair.state != "present":
        return {"boundary_iou": 0.0}
    bands = [
        mask & spread(surface, width_mm, pair.spacing_mm)
        for mask, surface in zip(pair.cropped, pair.surfaces, strict=True)
    ]
    both, either = np.count_nonzero(bands[0] & bands[1]), np.count_nonzero(bands[0] | bands[1])
    return {"boundary_iou": int(both) / int(either)}


def spread(mask: Mask, width_mm: float, spacing_mm: Sequence[float]) -> Mask:
    """Return the voxels whose centre lies within `width_mm` of the centre of a voxel of `mask`.

    Squared distances are a minimum over one axis after the other (Felzenszwalb and Huttenlocher 2012), with
    offsets up to the width only: for thin bands much less than a distance transform.
    """
    limit = np.float32((width_mm + 1e-6) ** 2)  # a nanometre: a distance of exactly the width counts
    squared = np.where(mask, np.float32(0), np.float32(np.inf))
    for axis, step_mm in enumerate(spacing_mm):
        squared = _spread_along(squared, axis, step_mm, limit)
    return np.asarray(squared <= limit)


def _spread_along(
    squared: NDArray[np.float32], axis: int, step_mm: float, limit: np.float32
) -> NDArray[np.float32]:
    source = np.moveaxis(squared, axis, 0)
    result = source.copy()
    for offset in range(1, min(int(np.sqrt(limit) / step_mm), len(source) - 1) + 1):
        away = np.float32((offset * step_mm) ** 2)
        np.minimum(result[offset:], source[:-offset] + away, out=result[offset:])
        np.minimum(result[:-offset], source[offset:] + away, out=result[:-offset])
    return np.moveaxis(result, 0, axis)
