"""Numbers out of rows, and the words for what they measure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
WORDS = {
    "dice": "Dice",
    "iou": "IoU",
    "nsd": "normalised surface Dice",
    "hd95_mm": "HD95 in mm",
    "hd_mm": "Hausdorff distance in mm",
    "assd_mm": "average symmetric surface distance in mm",
    "volume_error_ml": "volume error in ml",
}
UNITS = ("mm", "ml")
MAX_NAME = 32  # characters: a longer name would leave no room for what is drawn
Z95 = 1.959963984540054  # the 97.5 % quantile of a normal distribution


@dataclass
class Group:
    """The rows of one label.

    Args:
        name: Of the label.
        rows: In their order.
        values: The defined values of a metric.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def read_number(value: Any) -> float | None:
    """Return a cell as a number: None where it is empty or not finite."""
    if value is None or value == "":
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def shorten(name: object) -> str:
    """Return a name on one line, cut where it is long."""
    text = " ".join(str(name).split())
    return text if len(text) <= MAX_NAME else text[: MAX_NAME - 1] + "…"


def group_rows(rows: Iterable[Row], metric: str) -> list[Group]:
    """Return the rows by label, in order of appearance; regions, whose label is "region", by name."""
    groups: dict[tuple[str, str], Group] = {}
    for row in rows:
        name = str(row["name"])
        group = groups.setdefault((str(row["label"]), name), Group(shorten(name)))
        group.rows.append(row)
        if (number := read_number(row.get(metric))) is not None:
            group.values.append(number)
    return list(groups.values())


def word_metric(metric: str) -> str:
    """Return the name of a metric with its unit, for an axis."""
    stem, _, unit = metric.rpartition("_")
    plain = f"{stem.replace('_', ' ')} in {unit}" if unit in UNITS else metric.replace("_", " ")
    return WORDS.get(metric, plain)


def capitalise(text: str) -> str:
    """Return words as the start of a title; "HD95 in mm" stays as it is."""
    return text[:1].upper() + text[1:]


def find_median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two middle ones."""
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def bound_median(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return two order statistics that hold the true median with at least `level`, None where none do.

    Of any distribution: the r-th smallest of n values lies above the median as often as a coin shows fewer
    than r heads in n throws. Below six values even the extremes hold it less often than 95 %.
    """
    ordered = sorted(values)
    n, tail, rank = len(ordered), 0.0, 0
    while rank < n and tail + math.comb(n, rank) / 2**n <= (1 - level) / 2:
        tail += math.comb(n, rank) / 2**n
        rank += 1
    return (ordered[rank - 1], ordered[n - rank]) if rank else None


def spread(count: int, half: float) -> list[float]:
    """Return `count` offsets within +-half, neighbours apart: the golden ratio's sequence."""
    return [half * (2 * ((index + 1) * 0.6180339887498949 % 1) - 1) for index in range(count)]
