"""The gain of one result over another, case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medseg.tracking.plots.picture import COLOURS, FAINT, INK, Picture, head, paint, say_nothing
from medseg.tracking.plots.values import shorten, spread, word_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Limits = tuple[float | None, float | None]
MAX_ROWS = 40


def draw_paired(
    differences: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Limits],
    metric: str,
    names: tuple[str, str],
) -> Picture:
    """Draw B minus A of every case, a strip a label, with the mean and its 95 % interval.

    Args:
        differences: Name of a label (or of the mean over labels) -> one number a case; of more than 40 the
            first are drawn.
        intervals: The same names -> the interval of the mean, None where there are too few patients.
        metric: What is compared.
        names: Of A and of B.
    """
    shown = {name: list(values) for name, values in differences.items() if len(values)}
    left_out = len(shown) - MAX_ROWS
    shown = dict(list(shown.items())[:MAX_ROWS])
    if not shown:
        return say_nothing(f"no case has a {word_metric(metric)} in both")
    a, b = map(shorten, names)
    note = "point: a case · line: mean · bar: its 95 % interval (bootstrap over patients)"
    note += f"\n{left_out} labels more are not drawn" if left_out > 0 else ""

    def draw(figure: Figure) -> None:
        head(figure, f"{word_metric(metric)}: {b} − {a}", note)
        axes = figure.add_subplot()
        axes.axvline(0, color=FAINT, linewidth=1.2)
        for line, (name, values) in enumerate(shown.items()):
            heights = [line + offset for offset in spread(len(values), 0.24)]
            axes.scatter(sorted(values), heights, s=18, color=COLOURS[0], alpha=0.55, linewidths=0, zorder=3)
            low, high = intervals[name]
            if low is not None and high is not None:
                axes.plot([low, high], [line, line], color=INK, linewidth=2.4, solid_capstyle="butt")
            mean = sum(values) / len(values)
            axes.plot([mean, mean], [line - 0.32, line + 0.32], color=INK, linewidth=2.4)
        axes.set_yticks(
            range(len(shown)), [f"{shorten(name)}\nn = {len(values)}" for name, values in shown.items()]
        )
        axes.set_ylim(len(shown) - 0.45, -0.55)
        axes.set_xlabel(f"{b} minus {a}, {word_metric(metric)}")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)

    return paint(draw, 7.0, 1.5 + 0.5 * len(shown))
