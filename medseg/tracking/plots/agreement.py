"""Do predicted volumes agree with the reference's? Bland and Altman 1986, Lancet 327:307."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medseg.tracking.plots.picture import COLOURS, INK, Picture, head, paint, say_nothing, write_beside
from medseg.tracking.plots.values import Z95, Group, Row, group_rows, read_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 6
COLUMNS = (1, 1, 2, 3, 2, 3, 3)  # of so many panels


def draw_bland_altman(rows: Sequence[Row]) -> Picture:
    """Draw predicted minus reference volume against the mean of both, a panel a label.

    A line marks the bias (the mean difference), dashed ones the limits of agreement: bias +- 1.96 standard
    deviations, from three cases on. Cases without the label in either mask are left out.

    Args:
        rows: With `volume_reference_ml` and `volume_predicted_ml`; of more than six labels those of the
            largest volumes are drawn.
    """
    panels = [(group, pairs) for group in group_rows(rows, "dice") if (pairs := _read_pairs(group))]
    if not panels:
        return say_nothing("no case has volumes")
    shown = panels
    if len(panels) > MAX_PANELS:
        kept = sorted(panels, key=lambda panel: -max(max(pair) for pair in panel[1]))[:MAX_PANELS]
        shown = [panel for panel in panels if panel in kept]
    columns = COLUMNS[len(shown)]
    lines = math.ceil(len(shown) / columns)
    note = "solid: bias (mean difference) · dashed: limits of agreement, bias ± 1.96 sd"
    if len(shown) < len(panels):
        note += f" · {len(shown)} of {len(panels)} labels, largest volumes"

    def draw(figure: Figure) -> None:
        head(figure, "Predicted against reference volume (Bland–Altman)", note)
        for place, (group, pairs) in enumerate(shown):
            axes = figure.add_subplot(lines, columns, place + 1)
            axes.set_title(f"{group.name}, n = {len(pairs)}")
            _draw_panel(axes, pairs)
            if place % columns == 0:
                axes.set_ylabel("predicted − reference in ml")
            if place >= len(shown) - columns:
                axes.set_xlabel("mean of both in ml")

    return paint(draw, 1.0 + 4.2 * columns, 1.0 + 2.9 * lines)


def limits_of_agreement(differences: Sequence[float]) -> tuple[float, float, float] | None:
    """Return bias and both limits, None below three differences."""
    if len(differences) < 3:
        return None
    bias, reach = float(np.mean(differences)), Z95 * float(np.std(differences, ddof=1))
    return bias, bias - reach, bias + reach


def _read_pairs(group: Group) -> list[tuple[float, float]]:
    pairs = []
    for row in group.rows:
        reference, predicted = (
            read_number(row.get(f"volume_{which}_ml")) for which in ("reference", "predicted")
        )
        if reference is not None and predicted is not None and reference + predicted > 0:
            pairs.append((reference, predicted))
    return pairs


def _draw_panel(axes: Axes, pairs: Sequence[tuple[float, float]]) -> None:
    differences = [predicted - reference for reference, predicted in pairs]
    means = [(predicted + reference) / 2 for reference, predicted in pairs]
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.scatter(means, differences, s=20, color=COLOURS[0], alpha=0.65, linewidths=0, zorder=3)
    if lines := limits_of_agreement(differences):
        for value, style, word in zip(lines, ("-", "--", "--"), ("bias", "", ""), strict=True):
            axes.axhline(value, color=COLOURS[1], linewidth=1.6, linestyle=style)
            write_beside(
                axes, 1.01, value, f"{word} {value:+.3g}".strip().replace("-", "−"), color=COLOURS[1]
            )
    axes.margins(x=0.08, y=0.15)
