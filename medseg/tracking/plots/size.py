"""Are small structures segmented worse than large ones?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.tracking.plots.picture import COLOURS, MARKERS, Picture, head, mark_decades, paint, say_nothing
from medseg.tracking.plots.values import Group, Row, capitalise, group_rows, read_number, word_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_size(rows: Sequence[Row], metric: str) -> Picture:
    """Draw a metric against the reference's volume, which is on a logarithmic axis.

    Args:
        rows: With `volume_reference_ml` and the metric; rows without the label in the reference have no
            size and are left out.
        metric: The column that is drawn.
    """
    clouds = [
        (group, points) for group in group_rows(rows, metric) if (points := _read_points(group, metric))
    ]
    if not clouds:
        return say_nothing(f"no case has a volume and a {word_metric(metric)}")
    count = sum(len(points) for _, points in clouds)
    is_coloured = len(clouds) <= len(COLOURS)
    note = f"n = {count} structures" + ("" if is_coloured else f" of {len(clouds)} labels")

    def draw(figure: Figure) -> None:
        head(figure, f"{capitalise(word_metric(metric))} against size", note)
        axes = figure.add_subplot()
        for place, (group, points) in enumerate(clouds):
            look = place if is_coloured else 0
            volumes, values = zip(*points, strict=True)
            axes.scatter(
                volumes, values, s=24, color=COLOURS[look], marker=MARKERS[look], alpha=0.65,
                linewidths=0, label=f"{group.name}, n = {len(points)}",
            )  # fmt: skip
        axes.set(xlabel="volume of the reference in ml", ylabel=word_metric(metric))
        mark_decades(axes, "x", [volume for _, points in clouds for volume, _ in points])
        if is_coloured:
            figure.legend(loc="outside right upper")

    return paint(draw, 7.6, 4.2)


def _read_points(group: Group, metric: str) -> list[tuple[float, float]]:
    points = []
    for row in group.rows:
        volume, value = read_number(row.get("volume_reference_ml")), read_number(row.get(metric))
        if volume and value is not None:
            points.append((volume, value))
    return points
