"""Metrics that measure distances between surfaces (boundary voxels, see `pair`). Undefined is None."""

from __future__ import annotations

import numpy as np

from medseg.core.errors import ConfigError
from medseg.metrics.overlap import Values
from medseg.metrics.pair import Pair


def hd95(pair: Pair) -> Values:
    """95th percentile Hausdorff distance: the larger of the two directed 95th percentiles.

    Percentiles are interpolated linearly. This is `compute_hausdorff_distance(percentile=95)` of MONAI 1.6;
    other tools take the percentile of both directions pooled. Undefined if a mask is empty.
    """
    if pair.state != "present":
        return {"hd95_mm": None}
    return {"hd95_mm": max(float(np.percentile(distances, 95)) for distances in pair.distances_mm)}


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
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ConfigError(f"tolerance_mm is a distance >= 0, not {tolerance_mm}", code="TOLERANCE_INVALID")
    if pair.state == "both_empty":
        return {"nsd": None}
    within = sum(int(np.count_nonzero(distances <= tolerance_mm)) for distances in pair.distances_mm)
    return {"nsd": within / sum(distances.size for distances in pair.distances_mm)}
