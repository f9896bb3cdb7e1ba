"""How training went, and which epoch's weights were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medseg.tracking.plots.picture import COLOURS, FAINT, MARKERS, Picture, head, paint, say_nothing
from medseg.tracking.plots.values import Row, read_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (("train/loss", "loss in training"), ("val/dice", "Dice in validation"))
Points = list[tuple[float, float]]


def draw_curves(histories: Mapping[str, Sequence[Row]], chosen: Mapping[str, int] | None = None) -> Picture:
    """Draw loss and validation Dice over epochs, a line a fold, with the epoch whose weights were kept.

    Args:
        histories: Name of a fold -> rows of its history.csv.
        chosen: Name of a fold -> the epoch that was kept; by default the last one (see `find_chosen_epoch`).
    """
    folds = {name: rows for name, rows in histories.items() if rows}
    if not folds:
        return say_nothing("nothing was trained")
    kept = {name: (chosen or {}).get(name, find_chosen_epoch(rows)) for name, rows in folds.items()}

    def draw(figure: Figure) -> None:
        head(figure, "Learning curves", "large mark: the epoch whose weights were kept")
        for axes, (column, title) in zip(figure.subplots(1, 2, sharex=True), PANELS, strict=True):
            axes.set(title=title, xlabel="epoch")
            for place, (name, rows) in enumerate(folds.items()):
                label = f"fold {name}, epoch {kept[name]} of {_read(rows, 'epoch')[-1][1]:.0f}"
                _draw_line(axes, _read(rows, column), kept[name], place, label)
            if not axes.lines:
                axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=FAINT)
        if drawn := [axes for axes in figure.axes if axes.lines]:
            figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower right", ncols=3)

    return paint(draw, 9.0, 4.0)


def find_chosen_epoch(history: Sequence[Row], early_stop_epochs: int = 0) -> int:
    """Return the epoch whose weights left training: the last, or the best where training stopped early.

    Args:
        history: Rows of history.csv, at least one.
        early_stop_epochs: The setting `train.early_stop_epochs`.
    """
    last = int(_read(history, "epoch")[-1][1])
    scores = _read(history, "val/dice")
    if not (early_stop_epochs and scores):
        return last
    best, _ = max(scores, key=lambda point: (point[1], -point[0]))
    return int(best) if last - best >= early_stop_epochs else last


def _read(rows: Sequence[Row], column: str) -> Points:
    """Return (epoch, value) wherever the value is defined."""
    found = [(read_number(row["epoch"]), read_number(row.get(column))) for row in rows]
    return [(epoch, value) for epoch, value in found if epoch is not None and value is not None]


def _draw_line(axes: Axes, points: Points, kept: int, place: int, label: str) -> None:
    if not points:
        return
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    x, y = zip(*points, strict=True)
    small = 2.5 if len(points) <= 30 else 0
    axes.plot(x, y, color=colour, linewidth=1.5, marker="o", markersize=small)
    at = max((point for point in points if point[0] <= kept), default=points[0])
    axes.plot(*at, color=colour, marker=marker, markersize=9, markeredgecolor="white", label=label)
