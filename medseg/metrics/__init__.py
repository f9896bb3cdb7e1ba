"""How good a mask is. A metric is `(pair, *, options) -> {value name: number or None}`."""

from medseg.metrics.case import CaseMetrics, LabelMetrics, Metric, evaluate_case, hide_ignored
from medseg.metrics.overlap import dice, iou, precision, recall, volume
from medseg.metrics.pair import Pair
from medseg.metrics.summary import rows, summarise
from medseg.metrics.surface import hd95, nsd

METRICS: dict[str, Metric] = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
    "volume": volume,
    "hd95": hd95,
    "nsd": nsd,
}

__all__ = [
    "METRICS",
    "CaseMetrics",
    "LabelMetrics",
    "Metric",
    "Pair",
    "evaluate_case",
    "hide_ignored",
    "rows",
    "summarise",
]
