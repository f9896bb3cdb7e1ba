"""Are the probabilities beside a mask worth what they claim? First, what their channels stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.errors import DataError, GeometryError
from medseg.core.files import read_if_whole
from medseg.core.volume import Labels
from medseg.data.settings import Data
from medseg.io import read_volume, stem
from medseg.metrics import CaseMetrics
from medseg.metrics.calibration import Calibration, measure_calibration
from medseg.workflows.sidecar import PROBABILITIES

KEY = "probabilities"  # of a sidecar


@dataclass(frozen=True)
class Channels:
    """What the channels of probabilities stand for.

    Args:
        labels: Values of the classes behind background, in order; of no use where there are regions.
        regions: Name -> values; {} where channels are classes.
    """

    labels: Sequence[int]
    regions: Mapping[str, Sequence[int]]


def describe_channels(data: Data) -> dict[str, Any]:
    """Return what a sidecar says of the probabilities beside it: the channels in order."""
    if data.regions:
        return {"regions": [{"name": region.name, "labels": list(region.covers)} for region in data.regions]}
    return {"labels": sorted(data.labels)}


def find_channels(sidecar: Mapping[str, Any], count: int, known: Channels, found: Sequence[int]) -> Channels:
    """Return what `count` channels stand for: as the sidecar says, else as it was asked, else as it can be.

    Args:
        sidecar: Of the mask; {} where there is none.
        count: Of channels.
        known: Labels and regions that were asked for, "labels" empty where none were.
        found: Values above 0 in reference and prediction.

    Raises:
        DataError: PROBABILITIES_DIFFER: they cannot be known.
    """
    told = sidecar.get(KEY)
    if isinstance(told, dict):
        return _read(told)
    labels = sorted(known.labels)
    if known.regions and count == len(known.regions) and count != len(labels) + 1:
        return Channels((), known.regions)
    if known.regions and count == len(known.regions):
        raise _refuse(f"{count} channels may be the regions, or background and the labels")
    if labels:
        return Channels(labels, {})
    if count == 1 and len(found) <= 1:  # a map of foreground
        return Channels(found or (1,), {})
    if max(found, default=0) >= count:
        raise _refuse(f"{count} channels are not those of the values up to {max(found)}")
    return Channels(range(1, count), {})


def _read(told: Mapping[str, Any]) -> Channels:
    """Return what a sidecar says, which anyone may have written."""
    labels, regions = told.get("labels", []), told.get("regions", [])
    try:
        found = Channels(labels, {str(region["name"]): region["labels"] for region in regions})
        lists = [found.labels, *found.regions.values()]
        is_sound = all(isinstance(one, list) and all(type(value) is int for value in one) for one in lists)
    except (KeyError, TypeError):
        is_sound = False
    if not is_sound:
        raise _refuse("the sidecar does not say what the channels are")
    return found


def _refuse(why: str) -> DataError:
    return DataError(why, hint="name the labels of the model: --labels", code="PROBABILITIES_DIFFER")


def add_calibration(
    case: CaseMetrics,
    predicted: tuple[Path, Labels],
    reference: Labels,
    known: Channels,
    ignore_label: int | None,
) -> CaseMetrics:
    """Return the case with its calibration errors, where ID_prob.nii.gz lies beside the mask.

    Args:
        case: The metrics of the mask.
        predicted: The mask, and what it holds.
        reference: What it is compared with.
        known: See `find_channels`.
        ignore_label: Value of the reference whose voxels count for nothing.

    Raises:
        DataError: The probabilities cannot be read or lie on another grid, or PROBABILITIES_DIFFER.
    """
    path, mask = predicted
    name = stem(path)
    beside = path.with_name(f"{name}{PROBABILITIES}")
    if not beside.is_file():
        return case
    volume = read_volume(beside)
    if difference := reference.geometry.differs_from(volume.geometry):
        raise GeometryError(
            f"probabilities lie on another grid: {difference}",
            hint="resample one onto the other's grid first",
            code="GRID_MISMATCH",
        )
    values = {int(value) for labels in (reference, mask) for value in np.unique(labels.array)}
    sidecar = read_if_whole(path.with_name(f"{name}.json"))
    channels = find_channels(sidecar, len(volume.array), known, sorted(values - {0, ignore_label}))
    found = measure_calibration(
        reference.array,
        volume.array,
        labels=channels.labels,
        regions=channels.regions,
        ignore_label=ignore_label,
    )
    return _insert(case, found)


def _insert(case: CaseMetrics, found: Calibration) -> CaseMetrics:
    """Return the case with its calibration errors among the values of labels and regions."""
    labels = {
        value: replace(row, values={**row.values, "ece": found.labels.get(value)})
        for value, row in case.labels.items()
    }
    regions = {
        name: replace(row, values={**row.values, "ece": found.regions.get(name)})
        for name, row in case.regions.items()
    }
    return replace(case, labels=labels, regions=regions, calibration=found)
