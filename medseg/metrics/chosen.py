"""Which metrics an evaluation has, with which options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.core.select import select
from medseg.metrics import DEFAULT_METRICS, METRICS
from medseg.metrics.case import Metric

TOLERANT = ("nsd", "nsd_area", "boundary_f1")  # share one tolerance unless told otherwise


def choose_metrics(
    names: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    nsd_tolerance_mm: float = 1.0,
) -> dict[str, Metric]:
    """Return name -> metric with its options bound.

    Args:
        names: Keys of `METRICS` or "package.module:function"; ("all",) is all; None: the default set.
        options: Name -> keyword-only options; a name that is not among `names` is added.
        nsd_tolerance_mm: Of every metric with a tolerance.

    Raises:
        ConfigError: Unknown name or option, or a value that its metric refuses.
    """
    wanted = list(DEFAULT_METRICS if names is None else METRICS if list(names) == ["all"] else names)
    found = {}
    for name in dict.fromkeys([*wanted, *(options or {})]):
        known = {"tolerance_mm": nsd_tolerance_mm} if name in TOLERANT else {}
        found[name] = select("metric", METRICS, name, {**known, **(options or {}).get(name, {})})
    return found
