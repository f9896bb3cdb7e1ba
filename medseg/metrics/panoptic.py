"""Panoptic quality: are objects found, and how well are those outlined. Undefined is None."""

from __future__ import annotations

import numpy as np

from medseg.metrics.objects import find_objects
from medseg.metrics.overlap import Values
from medseg.metrics.pair import Pair

MATCH_IOU = 0.5  # above it, no object can match two others


def panoptic(pair: Pair, *, connectivity: int = 26, min_volume_mm3: float = 0.0) -> Values:
    """Panoptic, segmentation and recognition quality; PQ = SQ * RQ.

    Kirillov et al. 2019 (arXiv:1801.00868), eq. 1: objects match where their IoU is above 0.5; SQ is the mean
    IoU of matches, RQ the F1 of the objects. Objects are instances where there are any, else connected
    components. One empty mask: PQ and RQ 0, SQ undefined, as it is without a match; both empty: undefined.

    Args:
        pair: The two masks.
        connectivity: 6 (faces), 18 (edges) or 26 (corners) of components; in 2D 6 acts as 4, others as 8.
        min_volume_mm3: Smaller objects are left out of both masks.
    """
    found = find_objects(pair, connectivity=connectivity, min_volume_mm3=min_volume_mm3)
    n = len(found.reference) + len(found.predicted)
    if not n:
        return {"pq": None, "sq": None, "rq": None}
    union = found.reference[found.pairs[:, 0]] + found.predicted[found.pairs[:, 1]] - found.shared
    iou = found.shared / union
    matched = iou[iou > MATCH_IOU]
    tp, total = matched.size, float(np.sum(matched))
    return {"pq": 2 * total / n, "sq": total / tp if tp else None, "rq": 2 * tp / n}
