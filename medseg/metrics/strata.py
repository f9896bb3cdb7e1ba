"""The same numbers for parts of the cases: by size of a structure, and by any column of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import ConfigError
from medseg.metrics.columns import summarise_column
from medseg.metrics.intervals import Resamples
from medseg.metrics.table import Column, Key

Groups = Mapping[str, Mapping[str, str]]

STRATA = ("small", "medium", "large")
VOLUME = "volume_reference_ml"
MAX_GROUPS = 50
NO_GROUP = "not given"
BY = "tertiles of the reference volume of each structure, cases without a reference left out"


def summarise_strata(columns: Mapping[Key, Column], resamples: Resamples) -> dict[str, Any]:
    """Return each structure's numbers by tertile of its reference volume.

    A tertile's upper edge belongs to it. Null where fewer than three volumes differ or the metric "volume"
    was not asked for.
    """
    found: dict[str, dict[str, Any]] = {"labels": {}, "regions": {}}
    for key, column in columns.items():
        part = "labels" if key[0] == "label" else "regions"
        found[part][str(key[1])] = _divide(column, resamples)
    if not found["regions"]:
        del found["regions"]
    return {"by": BY, **found}


def _divide(column: Column, resamples: Resamples) -> dict[str, Any] | None:
    if VOLUME not in column.values:
        return None
    volumes = column.values[VOLUME]
    has_reference = volumes > 0  # NaN is not
    if len(np.unique(volumes[has_reference])) < len(STRATA):
        return None
    edges = np.quantile(volumes[has_reference], [0, 1 / 3, 2 / 3, 1])
    place = np.digitize(volumes, edges[1:3], right=True)
    result = {}
    for at, name in enumerate(STRATA):
        chosen = has_reference & (place == at)
        row, _ = summarise_column(column, chosen, resamples)
        result[name] = {"from_ml": float(edges[at]), "to_ml": float(edges[at + 1]), **row}
    return result


def summarise_groups(
    names: Sequence[str], groups: Groups, summarise: Callable[[NDArray[np.bool_]], dict[str, Any]]
) -> dict[str, Any]:
    """Return column -> group -> its numbers, and how many cases it has.

    Args:
        names: (N,) ids of the cases.
        groups: Column -> case id -> group; cases without one are the group "not given".
        summarise: Gets which cases are chosen, (N,).

    Raises:
        ConfigError: GROUPS_INVALID: a column has more than 50 groups, so it groups nothing.
    """
    found: dict[str, Any] = {}
    for column, group_of in groups.items():
        each = np.array([group_of.get(name) or NO_GROUP for name in names], object)
        kinds = sorted(set(each.tolist()))
        if len(kinds) > MAX_GROUPS:
            raise ConfigError(
                f"column `{column}` has {len(kinds)} groups, more than {MAX_GROUPS}",
                hint="leave the column out, or give ranges in place of numbers",
                code="GROUPS_INVALID",
            )
        found[column] = {
            kind: {"n_cases": int(np.count_nonzero(each == kind)), **summarise(each == kind)}
            for kind in kinds
        }
    return found
