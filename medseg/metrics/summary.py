"""From the metrics of cases to the numbers of a report.

Empty masks: a label that is in neither mask of a case is left out of all means and counted in
`n_both_empty`. A label that only one of the two holds scores 0 in Dice, IoU and NSD, has no surface
distance, and is counted in `n_missed` or `n_spurious`: read a distance beside these counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from medseg.core.errors import ConfigError
from medseg.metrics.case import CaseMetrics, LabelMetrics

DEFINITIONS = {
    "surface": "boundary_voxels",
    "hd95_mm": "larger of the two directed 95th percentiles",
    "volume_error_ml": "predicted minus reference",
    "empty": "both empty: excluded and counted; one empty: dice, iou, nsd 0, distance null and counted",
    "label": "mean over the n cases that hold the label; se is sd / sqrt(cases)",
    "mean": "mean over labels of the label means; se over cases of the case mean",
    "miou": "mean over cases of the mean iou of the labels in the case, without background",
    "pixel_accuracy": "mean over cases of the share of voxels with the right label, with background",
}


def summarise(cases: Sequence[CaseMetrics]) -> dict[str, Any]:
    """Return the "metrics" object of a report: mean, labels, definitions; six digits, None for undefined.

    Where the cases have regions, "regions" holds them as "labels" holds labels; no mean counts them.

    Raises:
        ConfigError: The cases were evaluated with different options.
    """
    options = [case.options for case in cases]
    if any(other != options[0] for other in options):
        raise ConfigError(
            "the cases were evaluated with different metric options",
            hint="evaluate all cases again with one set of options",
            code="METRICS_DIFFER",
        )
    values = list(dict.fromkeys(value for case in cases for value in case.labels))
    labels = {
        str(value): _summarise_label([c.labels[value] for c in cases if value in c.labels])
        for value in values
    }
    mean: dict[str, float | None] = {}
    for key in _value_names(label for case in cases for label in case.labels.values()):
        mean[key] = _mean(label[key] for label in labels.values() if key in label)
        mean[f"{key}_se"] = _standard_error(_mean(_values(case.labels.values(), key)) for case in cases)
    mean["miou"], mean["miou_se"] = _mean(c.miou for c in cases), _standard_error(c.miou for c in cases)
    mean["pixel_accuracy"] = _mean(case.pixel_accuracy for case in cases)
    mean["pixel_accuracy_se"] = _standard_error(case.pixel_accuracy for case in cases)
    used = {name: dict(chosen) for name, chosen in options[0].items() if chosen} if options else {}
    summary = {"mean": mean, "labels": labels, "definitions": {**DEFINITIONS, "options": used}}
    if names := list(dict.fromkeys(name for case in cases for name in case.regions)):
        groups = [[case.regions[name] for case in cases if name in case.regions] for name in names]
        summary["regions"] = {name: _summarise_label(group) for name, group in zip(names, groups)}
    return {key: _rounded(part) for key, part in summary.items()}


def rows(cases: Iterable[CaseMetrics]) -> list[dict[str, Any]]:
    """Return one flat row per case and label or "region": id, label, name, state, then the values."""
    return [
        {
            "id": case.case_id,
            "label": value,
            "name": label.name,
            "state": label.state,
            **_rounded(label.values),
        }
        for case in cases
        for value, label in [*case.labels.items(), *(("region", group) for group in case.regions.values())]
    ]


def _summarise_label(cases: Sequence[LabelMetrics]) -> dict[str, Any]:
    states = [case.state for case in cases]
    counts = {f"n_{state}": states.count(state) for state in ("both_empty", "missed", "spurious")}
    result: dict[str, Any] = {"name": cases[0].name, "n": len(cases) - counts["n_both_empty"], **counts}
    for key in _value_names(cases):
        result[key] = _mean(_values(cases, key))
        result[f"{key}_se"] = _standard_error(_values(cases, key))
    return result


def _value_names(labels: Iterable[LabelMetrics]) -> list[str]:
    return list(dict.fromkeys(key for label in labels for key in label.values))


def _values(labels: Iterable[LabelMetrics], key: str) -> list[float | None]:
    return [label.values.get(key) for label in labels if label.state != "both_empty"]


def _mean(numbers: Iterable[float | None]) -> float | None:
    defined = [number for number in numbers if number is not None]
    return math.fsum(defined) / len(defined) if defined else None


def _standard_error(numbers: Iterable[float | None]) -> float | None:
    """Return the sample standard deviation over the square root of the count, None below two numbers."""
    defined = [number for number in numbers if number is not None]
    centre = _mean(defined)
    if centre is None or len(defined) < 2:
        return None
    variance = math.fsum((number - centre) ** 2 for number in defined) / (len(defined) - 1)
    return math.sqrt(variance / len(defined))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 6) if isinstance(value, float) else value
