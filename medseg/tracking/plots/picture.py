"""What all figures share: paper, ink, colours, and how a figure becomes bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, FAINT, RULE = "#ffffff", "#1a1a1a", "#5f6368", "#d9dbde"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito 2008, jfly.uni-koeln.de/color; their yellow is too pale for white paper."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # one a colour: a figure is read in grey, too
DOTS_PER_INCH = 150
STYLE: Any = {  # matplotlib's own type of it lists each key
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a structure may be called "a$b$"
    "axes.facecolor": PAPER,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",  # no font is needed to show it, and no text of it can be markup
    "svg.hashsalt": "medseg",  # else its ids are random
}


@dataclass(frozen=True)
class Picture:
    """One figure.

    Args:
        png: Its bytes, 150 dots an inch.
        svg: Its bytes; text is drawn as outlines.
    """

    png: bytes
    svg: bytes

    def write(self, path: Path) -> tuple[str, str]:
        """Write `path`.png and `path`.svg and return their names."""
        names = f"{path.name}.png", f"{path.name}.svg"
        for name, content in zip(names, (self.png, self.svg), strict=True):
            write_bytes(path.with_name(name), content)
        return names


def paint(draw: Callable[[Figure], None], width: float, height: float) -> Picture:
    """Return what `draw` puts onto an empty figure of `width` by `height` inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks shows boxes
        figure = Figure((width, height), dpi=DOTS_PER_INCH, facecolor=PAPER, layout="constrained")
        draw(figure)
        return Picture(_save(figure, "png", {"Software": None}), _save(figure, "svg", {"Date": None}))


def say_nothing(why: str) -> Picture:
    """Return a figure that says why there is nothing to see."""

    def draw(figure: Figure) -> None:
        figure.text(0.5, 0.5, why, ha="center", va="center", color=FAINT)

    return paint(draw, 6.0, 1.6)


def head(figure: Figure, title: str, note: str) -> None:
    """Put a title above all axes, and below them, smaller, what one needs for reading."""
    figure.suptitle(title, x=0.01, ha="left", size=12, weight="bold")
    figure.supxlabel(note, x=0.01, ha="left", size=8.5, color=FAINT)


def mark_decades(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Make the "x" or "y" axis of positive values logarithmic, with plain numbers as ticks.

    An axis of two decades or less has ticks at 1, 2 and 5 times a power of ten, a longer one at the powers.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    between = (1.0,) if max(values) / min(values) > 100 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=between))
    axis.set_major_formatter(FuncFormatter(lambda value, _: shorten_number(value)))
    axis.set_minor_formatter(NullFormatter())


def shorten_number(value: float) -> str:
    """Return a number >= 0 in three digits: 1234567 -> "1.23 M"."""
    for size, word in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{word}"
    return f"{value:.3g}"


def write_beside(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write a word at the right edge of a line, at data height y."""
    axes.text(x, y, text, transform=axes.get_yaxis_transform(), size=8.5, va="center", **style)


def _save(figure: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, facecolor=PAPER, metadata=metadata)
    return stream.getvalue()
