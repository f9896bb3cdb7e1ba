"""Are the lesions found? Metrics that count objects, not voxels. Undefined is None."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import ConfigError
from medseg.metrics.objects import Objects, find_objects
from medseg.metrics.overlap import Values
from medseg.metrics.pair import Pair


def lesions(
    pair: Pair, *, connectivity: int = 26, min_volume_mm3: float = 0.0, min_overlap: float = 0.0
) -> Values:
    """Detection of lesions: F1, sensitivity, precision, false positives, and the Dice lesion by lesion.

    A lesion of the reference is detected (tp) where predicted lesions cover some of it, a predicted lesion
    that meets none is a false positive (fp): F1 is 2 tp / (2 tp + fp + fn), as in ISLES 2022 (Hernandez
    Petzsche et al. 2022, Scientific Data 9). The lesion-wise Dice is that of BraTS 2023 without its dilation
    and size limits: each reference lesion against all predicted ones that meet it, 0 for missed and for
    false ones, averaged over all of these. One empty mask: F1 and Dice 0, sensitivity without a reference
    and precision without a prediction undefined; both empty: undefined but no false positives.

    Args:
        pair: The two masks.
        connectivity: 6 (faces), 18 (edges) or 26 (corners) of components; in 2D 6 acts as 4, others as 8.
        min_volume_mm3: Smaller lesions are left out of both masks.
        min_overlap: Share of a reference lesion that must be covered; 0: one voxel.
    """
    if not 0 <= min_overlap <= 1:
        raise ConfigError(f"min_overlap is a share, not {min_overlap}", code="OVERLAP_INVALID")
    found = find_objects(pair, connectivity=connectivity, min_volume_mm3=min_volume_mm3)
    n_reference, n_predicted = len(found.reference), len(found.predicted)
    covered = np.bincount(found.pairs[:, 0], found.shared, n_reference).astype(np.float64)
    tp = int(np.count_nonzero((covered > 0) & (covered >= min_overlap * found.reference)))
    fp = n_predicted - len(np.unique(found.pairs[:, 1]))
    fn = n_reference - tp
    return {
        "lesion_f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "lesion_sensitivity": _ratio(tp, n_reference),
        "lesion_precision": _ratio(n_predicted - fp, n_predicted),
        "lesion_false_positives": float(fp),
        "lesion_dice": _ratio(_sum_dice(found, covered), n_reference + fp),
    }


def _sum_dice(found: Objects, covered: NDArray[np.float64]) -> float:
    predicted = np.bincount(found.pairs[:, 0], found.predicted[found.pairs[:, 1]], len(found.reference))
    return float((2 * covered / (found.reference + predicted)).sum())


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
