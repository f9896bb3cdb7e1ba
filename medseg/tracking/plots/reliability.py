"""Is a confidence of 80 % right in 80 % of voxels? Guo et al. 2017, arXiv:1706.04599, figure 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.tracking.plots.picture import COLOURS, FAINT, INK, Picture, head, mark_decades, paint, say_nothing
from medseg.tracking.plots.values import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_reliability(bins: Sequence[Row]) -> Picture:
    """Draw the share of right decisions against their confidence, and how many decisions each bin holds.

    Args:
        bins: "confidence" (mean of the bin), "accuracy" (share that is right) and "n"; bins without
            decisions are left out. The title states the expected calibration error of these bins.
    """
    filled = [row for row in bins if float(row["n"]) > 0]
    if not filled:
        return say_nothing("no decision has a confidence")
    confidence, accuracy, count = (
        [float(row[key]) for row in filled] for key in ("confidence", "accuracy", "n")
    )
    total = math.fsum(count)
    error = math.fsum(n * abs(a - c) for n, a, c in zip(count, accuracy, confidence, strict=True)) / total

    def draw(figure: Figure) -> None:
        head(figure, "Reliability of the confidence", "below the diagonal: more confident than right")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, linestyle="--")
        upper.vlines(confidence, confidence, accuracy, color=COLOURS[1], linewidth=2.5, alpha=0.6)
        upper.plot(confidence, accuracy, color=COLOURS[0], marker="o", markersize=5, linewidth=1.4)
        upper.text(0.02, 0.96, f"ECE {error:.4f}, n = {total:,.0f} voxels", va="top", color=INK)
        upper.set(ylim=(0, 1.02), ylabel="share that is right")
        lower.plot(confidence, count, color=COLOURS[0], marker="o", markersize=5, linewidth=0.8)
        lower.set(xlim=(0, 1.02), ylabel="voxels", xlabel="confidence of the decision")
        mark_decades(lower, "y", count)
        lower.margins(y=0.2)

    return paint(draw, 5.2, 5.8)
