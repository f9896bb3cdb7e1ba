"""Metrics that measure distances between surfaces (boundary voxels, see `pair`). Undefined is None."""

from __future__ import annotations

import numpy as np

from medseg.core.errors import ConfigError
from medseg.metrics.overlap import Values
from medseg.metrics.pair import Pair


def hd(pair: Pair) -> Values:
    """Hausdorff distance: the largest from either surface to the other; undefined if a mask is empty.

    One stray voxel decides it: read it beside `hd95`.
    """
    if pair.state != "present":
        return {"hd_mm": None}
    return {"hd_mm": max(float(distances.max()) for distances in pair.distances_mm)}


def hd95(pair: Pair) -> Values:
    """95th percentile Hausdorff distance: the larger of the two directed 95th percentiles.

    Percentiles are interpolated linearly. This is `compute_hausdorff_distance(percentile=95)` of MONAI 1.6;
    other tools take the percentile of both directions pooled. Undefined if a mask is empty.
    """
    if pair.state != "present":
        return {"hd95_mm": None}
    return {"hd95_mm": max(float(np.percentile(distances, 95)) for distances in pair.distances_mm)}


def assd(pair: Pair) -> Values:
    """Average symmetric surface distance: the mean over the boundary voxels of both surfaces, pooled.

    `compute_average_surface_distance(symmetric=True)` of MONAI 1.6; the mean of the two directed means is
    another number. Undefined if a mask is empty.
    """
    if pair.state != "present":
        return {"assd_mm": None}
    there, back = pair.distances_mm
    return {"assd_mm": float(there.sum() + back.sum()) / (there.size + back.size)}


def nsd(pair: Pair, *, tolerance_mm: float = 1.0) -> Values:
    """Normalised surface Dice: the share of both surfaces within `tolerance_mm` of the other one.

    Each boundary voxel counts the same: `compute_surface_dice(use_subvoxels=False)` of MONAI 1.6, after
    Nikolov et al. 2018 (arXiv:1809.04430), who weigh by surface area. 0 if one mask is empty, undefined
    if both are.

    Args:
        pair: The two masks.
        tolerance_mm: Accepted distance, itself included. It ought to be what two readers differ by;
            1 mm is a convention, not a measurement.
    """
    check_tolerance(tolerance_mm)
    if pair.state == "both_empty":
        return {"nsd": None}
    within = sum(int(np.count_nonzero(distances <= tolerance_mm)) for distances in pair.distances_mm)
    return {"nsd": within / sum(distances.size for distances in pair.distances_mm)}


def hd95_area(pair: Pair) -> Values:
    """95th percentile Hausdorff distance by surface area: 95 % of either surface's area lies within it.

    The larger of both directions, the first distance at which the share is reached, no interpolation:
    `compute_robust_hausdorff(percent=95)` of google-deepmind/surface-distance. Undefined if a mask is empty.
    """
    if pair.state != "present":
        return {"hd95_area_mm": None}
    reached = []
    for surface in pair.surfels:
        order = np.lexsort((surface.areas, surface.distances_mm))
        share = np.cumsum(surface.areas[order]) / surface.areas.sum()
        at = min(int(np.searchsorted(share, 0.95)), order.size - 1)
        reached.append(float(surface.distances_mm[order[at]]))
    return {"hd95_area_mm": max(reached)}


def nsd_area(pair: Pair, *, tolerance_mm: float = 1.0) -> Values:
    """Normalised surface Dice by surface area: `compute_surface_dice_at_tolerance` of surface-distance.

    0 if one mask is empty, undefined if both are. See `nsd` for the tolerance.
    """
    check_tolerance(tolerance_mm)
    if pair.state == "both_empty":
        return {"nsd_area": None}
    within = sum(float(s.areas[s.distances_mm <= tolerance_mm].sum()) for s in pair.surfels)
    return {"nsd_area": within / sum(float(surface.areas.sum()) for surface in pair.surfels)}


def check_tolerance(tolerance_mm: float) -> None:
    """Raise ConfigError unless `tolerance_mm` is a distance."""
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ConfigError(f"tolerance_mm is a distance >= 0, not {tolerance_mm}", code="TOLERANCE_INVALID")
