"""How a metric is spread over cases: by label, and by fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.tracking.plots.picture import COLOURS, INK, Picture, head, paint, say_nothing
from medseg.tracking.plots.values import (
    Group,
    Row,
    bound_median,
    capitalise,
    find_median,
    group_rows,
    spread,
    word_metric,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LABELS = 40
HOW = "point: a case · line: median · bar: its 95 % interval (order statistics), from six cases on"


def draw_distributions(rows: Sequence[Row], metric: str) -> Picture:
    """Draw every case of every label, with the median and its interval.

    Args:
        rows: As `medseg.metrics.rows` gives them.
        metric: The column that is drawn; of more than 40 labels, those with the smallest medians.
    """
    groups = [group for group in group_rows(rows, metric) if group.values]
    if not groups:
        return say_nothing(f"{word_metric(metric)} is not defined for any case")
    worst = sorted(groups, key=lambda group: find_median(group.values))[:MAX_LABELS]
    shown = [group for group in groups if group in worst]
    left_out = f"\n{len(shown)} of {len(groups)} labels, smallest medians" if len(shown) < len(groups) else ""

    def draw(figure: Figure) -> None:
        head(figure, f"{capitalise(word_metric(metric))} by label", HOW + left_out)
        axes = figure.add_subplot()
        _draw_strips(axes, shown, COLOURS[0])
        axes.set_yticks(range(len(shown)), [f"{group.name}\n{_count(group)}" for group in shown])
        axes.set_xlabel(word_metric(metric))

    return paint(draw, 7.0, 1.5 + 0.55 * len(shown))


def draw_folds(rows: Sequence[Row], metric: str = "dice") -> Picture:
    """Draw the mean over labels of every case, one strip a fold.

    Args:
        rows: As `medseg.metrics.rows` gives them, and "fold": who held the case out.
        metric: The column that is drawn.
    """
    folds: dict[str, Group] = {}
    for fold in dict.fromkeys(str(row["fold"]) for row in rows):
        cases: dict[str, list[float]] = {}
        inside = [row for row in rows if str(row["fold"]) == fold and str(row["label"]) != "region"]
        for group in group_rows([{**row, "label": row["id"], "name": row["id"]} for row in inside], metric):
            cases.setdefault(group.name, []).extend(group.values)
        means = [sum(values) / len(values) for values in cases.values() if values]
        folds[fold] = Group(f"fold {fold}", inside, means)
    shown = [group for group in folds.values() if group.values]
    if not shown:
        return say_nothing(f"{word_metric(metric)} is not defined for any case")

    def draw(figure: Figure) -> None:
        head(figure, f"{capitalise(word_metric(metric))} of held-out cases by fold", HOW)
        axes = figure.add_subplot()
        _draw_strips(axes, shown, COLOURS[2])
        axes.set_yticks(range(len(shown)), [f"{group.name}\nn = {len(group.values)}" for group in shown])
        axes.set_xlabel(f"{word_metric(metric)}, mean over the labels of a case")

    return paint(draw, 7.0, 1.5 + 0.55 * len(shown))


def _draw_strips(axes: Axes, groups: Sequence[Group], colour: str) -> None:
    """Draw one row a group, the first on top."""
    for line, group in enumerate(groups):
        heights = [line + offset for offset in spread(len(group.values), 0.26)]
        axes.scatter(sorted(group.values), heights, s=18, color=colour, alpha=0.55, linewidths=0, zorder=3)
        if interval := bound_median(group.values):
            axes.plot(interval, [line, line], color=INK, linewidth=2.2, solid_capstyle="butt")
        middle = find_median(group.values)
        axes.plot([middle, middle], [line - 0.34, line + 0.34], color=INK, linewidth=2.2)
        axes.annotate(
            f"{middle:.3g}", (middle, line - 0.36), xytext=(0, 1), textcoords="offset points", size=8.5,
            ha="center", va="bottom",
        )  # fmt: skip
    axes.set_ylim(len(groups) - 0.45, -0.7)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _count(group: Group) -> str:
    undefined = len(group.rows) - len(group.values)
    return f"n = {len(group.values)}" + (f", {undefined} undefined" if undefined else "")
