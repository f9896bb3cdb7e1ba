"""From the metrics of cases to the numbers of a report.

Empty masks: a label that is in neither mask of a case is left out of all means and counted in
`n_both_empty`. A label that only one of the two holds scores 0 in Dice, IoU and NSD, has no surface
distance, and is counted in `n_missed` or `n_spurious`: read a distance beside these counts. False positives
per scan alone are a mean over all scans: one without lesions and without findings is a good one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.case import CaseMetrics
from medseg.metrics.columns import round_numbers, summarise_cases, summarise_column
from medseg.metrics.intervals import Resamples
from medseg.metrics.strata import Groups, summarise_groups, summarise_strata
from medseg.metrics.table import Scores

DEFINITIONS = {
    "surface": "boundary_voxels",
    "precision": "tp / (tp + fp); null without a prediction",
    "recall": "tp / (tp + fn); null without a reference",
    "hd_mm": "largest distance of either surface to the other",
    "hd95_mm": "larger of the two directed 95th percentiles",
    "assd_mm": "mean over the boundary voxels of both surfaces, pooled",
    "volume_error_ml": "predicted minus reference",
    "relative_volume_error": "predicted minus reference over reference; null without a reference",
    "empty": "both empty: excluded and counted; one empty: dice, iou, nsd 0, distance null and counted",
    "label": "mean over the n cases that hold the label; se is sd / sqrt(cases)",
    "mean": "mean over labels of the label means; se over cases of the case mean",
    "miou": "mean over cases of the mean iou of the labels in the case, without background",
    "pixel_accuracy": "mean over cases of the share of voxels with the right label, with background",
    "ece": "of a label one against the rest, over all voxels of a case; in mean of each voxel's decision, "
    "and ece_foreground where reference or decision is foreground; 15 bins (Guo 2017)",
    "ci95": "[low, high] of the mean, patients resampled; null if fewer than min_patients have a value",
}
OPTIONAL_DEFINITIONS = {
    "hd95_area": "surface_area (Nikolov 2018), larger direction, no interpolation",
    "nsd_area": "surface_area (Nikolov 2018)",
    "boundary_f1": "boundary_voxels, harmonic mean of both shares within tolerance_mm (Csurka 2013)",
    "boundary_iou": "boundary_voxels, bands of width_mm inside either mask (Cheng 2021)",
    "lesions": "reference lesions with min_overlap covered are detected; one empty: f1, dice 0, sensitivity "
    "null without reference, precision without prediction; lesion_false_positives is a mean over all scans",
    "panoptic": "objects match above iou 0.5 (Kirillov 2019); one empty: pq, rq 0, sq null",
}


def summarise(
    cases: Iterable[CaseMetrics],
    *,
    patients: Mapping[str, Hashable] | None = None,
    groups: Groups | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the "metrics" object of a report: mean, labels, definitions; six digits, None for undefined.

    Where the cases have regions, "regions" holds them as "labels" holds labels; no mean counts them.

    Args:
        cases: A list, or `Scores`, which takes less memory.
        patients: Case id -> whose it is; a case without is a patient of its own.
        groups: Column -> case id -> group, such as {"site": {"case-1": "A"}}.
        seed: Of the resamples.

    Raises:
        ConfigError: The cases were evaluated with different options.
    """
    scores = cases if isinstance(cases, Scores) else Scores.of(cases)
    names = scores.ids
    resamples = Resamples([_whose(name, patients) for name in names], seed=seed)
    columns = {key: scores.column(key) for key in scores.keys}
    labels = {key: column for key, column in columns.items() if key[0] == "label"}
    everyone = np.ones(len(names), bool)
    used = {name: dict(chosen) for name, chosen in (scores.options or {}).items() if chosen}
    optional = {
        name: OPTIONAL_DEFINITIONS[name] for name in scores.options or {} if name in OPTIONAL_DEFINITIONS
    }
    summary: dict[str, Any] = {
        **summarise_cases(scores, labels, everyone, resamples),
        "definitions": {**DEFINITIONS, **optional, "options": used},
        "intervals": resamples.method,
        "confusion": _lay_out(scores.confusion, [int(str(key[1])) for key in labels]),
        "strata": summarise_strata(columns, resamples),
    }
    regions = {str(key[1]): column for key, column in columns.items() if key[0] == "region"}

    def summarise_regions(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        found = {name: summarise_column(column, chosen, resamples)[0] for name, column in regions.items()}
        return {"regions": found} if found else {}

    summary |= summarise_regions(everyone)
    if groups:
        summary["groups"] = summarise_groups(
            names,
            groups,
            lambda chosen: {
                **summarise_cases(scores, labels, chosen, resamples),
                **summarise_regions(chosen),
            },
        )
    if scores.calibration:
        whole, foreground = scores.calibration
        summary["calibration"] = {
            "ece": whole.error,
            "ece_foreground": foreground.error,
            "bins": whole.to_json(),
            "bins_foreground": foreground.to_json(),
        }
    rounded: dict[str, Any] = round_numbers(summary)
    return rounded


def _whose(name: str, patients: Mapping[str, Hashable] | None) -> Hashable:
    known = (patients or {}).get(name)
    return ("case", name) if known in (None, "") else ("patient", known)


def _lay_out(confusion: Mapping[tuple[int, int], int], values: list[int]) -> dict[str, Any]:
    """Return the voxels of all cases: a row per label of the reference, a column per predicted one."""
    values = [0, *values]
    matrix = [[confusion.get((one, other), 0) for other in values] for one in values]
    return {"labels": values, "voxels": matrix}


def rows(cases: Iterable[CaseMetrics]) -> list[dict[str, Any]]:
    """Return one flat row per case and label or "region": id, label, name, state, then the values."""
    return list(iterate_rows(cases))


def iterate_rows(cases: Iterable[CaseMetrics]) -> Iterator[dict[str, Any]]:
    """Yield what `rows` returns, one case in memory at a time."""
    for case in cases:
        for value, label in [*case.labels.items(), *(("region", group) for group in case.regions.values())]:
            yield {
                "id": case.case_id,
                "label": value,
                "name": label.name,
                "state": label.state,
                **round_numbers(label.values),
            }
