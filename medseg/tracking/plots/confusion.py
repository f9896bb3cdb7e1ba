"""Which labels are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.tracking.plots.picture import INK, PAPER, Picture, head, paint, say_nothing, shorten_number
from medseg.tracking.plots.values import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_WRITTEN = 20  # labels; of more the numbers would not be legible


def draw_confusion(matrix: NDArray[Any] | Sequence[Sequence[float]], names: Sequence[str]) -> Picture:
    """Draw what became of the voxels of each label, as a share of its row.

    Args:
        matrix: (L, L) voxels, the reference's label in rows, the predicted one in columns.
        names: (L,) of the labels, background among them.
    """
    counts = np.asarray(matrix, np.float64)
    totals = counts.sum(1, keepdims=True)
    if not totals.any():
        return say_nothing("no voxel was compared")
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    side = 1.8 + max(0.62, min(0.8, 6 / len(names))) * len(names) if len(names) <= MAX_WRITTEN else 11.0

    def draw(figure: Figure) -> None:
        head(figure, "Confusion of labels", "share of the reference's voxels of a row, in %")
        axes = figure.add_subplot()
        axes.grid(visible=False)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(
            range(len(names)), list(map(shorten, names)), rotation=35, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(
            range(len(names)),
            [
                f"{shorten(name)}\nn = {shorten_number(n)}"
                for name, n in zip(names, totals[:, 0], strict=True)
            ],
        )
        axes.tick_params(length=0, labelsize=9 if len(names) <= MAX_WRITTEN else 5)
        axes.set(xlabel="predicted", ylabel="reference (n in voxels)")
        if len(names) <= MAX_WRITTEN:
            _write_shares(axes, shares)

    return paint(draw, side + 0.9, side + 0.4)


def _write_shares(axes: Axes, shares: NDArray[np.float64]) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share > 0:  # nothing where nothing is, and where the row is empty
            text = "<0.1" if share < 0.001 else f"{100 * share:.1f}"
            axes.text(
                column, row, text, ha="center", va="center", size=9, color=PAPER if share > 0.5 else INK
            )
