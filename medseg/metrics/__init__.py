"""How good a mask is. A metric is `(pair, *, options) -> {value name: number or None}`."""

from medseg.metrics.boundary import boundary_f1, boundary_iou
from medseg.metrics.case import (
    CaseMetrics,
    LabelMetrics,
    Metric,
    evaluate_case,
    evaluate_instances,
    hide_ignored,
)
from medseg.metrics.lesions import lesions
from medseg.metrics.overlap import dice, iou, precision, recall, relative_volume_error, volume
from medseg.metrics.pair import Pair
from medseg.metrics.panoptic import panoptic
from medseg.metrics.summary import iterate_rows, rows, summarise
from medseg.metrics.surface import assd, hd, hd95, hd95_area, nsd, nsd_area
from medseg.metrics.table import Scores

METRICS: dict[str, Metric] = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
    "volume": volume,
    "relative_volume_error": relative_volume_error,
    "hd": hd,
    "hd95": hd95,
    "assd": assd,
    "nsd": nsd,
    "hd95_area": hd95_area,
    "nsd_area": nsd_area,
    "boundary_f1": boundary_f1,
    "boundary_iou": boundary_iou,
    "lesions": lesions,
    "panoptic": panoptic,
}

DEFAULT_METRICS = tuple(METRICS)[:10]
"""What every evaluation has. Counts cost nothing once they are made, and the four surface metrics share one
search for nearest points. The others are asked for: another surface (`*_area`) or band (`boundary_iou`) costs
as much again, and whether components are lesions or cells (`lesions`, `panoptic`) only the task knows."""

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "CaseMetrics",
    "LabelMetrics",
    "Metric",
    "Pair",
    "Scores",
    "evaluate_case",
    "evaluate_instances",
    "hide_ignored",
    "iterate_rows",
    "rows",
    "summarise",
]
