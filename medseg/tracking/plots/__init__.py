"""Figures for papers and for MLflow, drawn from plain rows; each comes as PNG and SVG.

Rows are those of `medseg.metrics.rows` or of the `cases.csv` that holds them: numbers may be text, and an
empty cell, None and NaN are undefined. Nothing is drawn of what is undefined, and how much that is stands in
the figure. The same rows give the same bytes. Colours are those of Okabe and Ito, which the common
colour-vision deficiencies keep apart, and no meaning hangs on colour alone. Matplotlib is imported by the
calls.
"""

from medseg.tracking.plots.agreement import draw_bland_altman
from medseg.tracking.plots.confusion import draw_confusion
from medseg.tracking.plots.curves import draw_curves, find_chosen_epoch
from medseg.tracking.plots.distributions import draw_distributions, draw_folds
from medseg.tracking.plots.paired import draw_paired
from medseg.tracking.plots.picture import Picture
from medseg.tracking.plots.reliability import draw_reliability
from medseg.tracking.plots.size import draw_size

__all__ = [
    "Picture",
    "draw_bland_altman",
    "draw_confusion",
    "draw_curves",
    "draw_distributions",
    "draw_folds",
    "draw_paired",
    "draw_reliability",
    "draw_size",
    "find_chosen_epoch",
]
