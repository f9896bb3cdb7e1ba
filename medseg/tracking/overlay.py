"""Draw reference and prediction on the anatomy, readable at first sight.

Solid, cold colours are the reference, dashed, warm colours the prediction; each label has a pair of colours
that stay apart on the blue-yellow axis, which the common colour-vision deficiencies keep.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.volume import Volume
from medseg.metrics import hide_ignored
from medseg.tracking.planes import Panel, cut_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIRS = (("#33d6ff", "#ff9e2c"), ("#b9a5ff", "#ffec4d"), ("#2fe0a0", "#ff6ec7"), ("#ffffff", "#ff5a4f"))
PERCENTILES = (0.5, 99.5)  # of what is shown; a few hot voxels do not darken the rest
DASH, LINE = (0, (3.0, 2.0)), 1.4  # points
MAX_WIDTH, MIN_WIDTH, MAX_HEIGHT, GAP, HEAD, FOOT = 11.0, 7.0, 6.0, 0.35, 0.85, 0.95  # inches
DOTS_PER_INCH = 130
INK, FAINT, PAPER = "#e8e8e8", "#9a9da1", "#101214"


def pick_cases(scores: Mapping[str, float | None]) -> dict[str, str]:
    """Return the ids of the "worst", "median" and "best" case; {} where no case has a defined score.

    Ties go to the first id in order; of an even number of cases the lower middle one is the median.
    """
    defined = sorted((v, name) for name, v in scores.items() if v is not None and not math.isnan(v))
    if not defined:
        return {}
    names = [name for _, name in defined]
    best = min(name for value, name in defined if value == defined[-1][0])
    return {"worst": names[0], "median": names[(len(names) - 1) // 2], "best": best}


def draw_overlay(
    case_id: str,
    image: Volume,
    reference: NDArray[Any] | None,
    predicted: NDArray[Any],
    names: Mapping[int, str],
    *,
    window: tuple[float, float] | None = None,
    channel: int = 0,
    ignore_label: int | None = None,
) -> bytes:
    """Return a PNG with the contours of both label maps on the slices where the reference is largest.

    Args:
        case_id: Shown as the title.
        image: Three planes are shown of a volume, one panel of a single slice or a picture.
        reference: (I, J, K) on the grid of `image`, or None.
        predicted: (I, J, K) on the grid of `image`.
        names: Name of each label; of more than four, the largest four are drawn.
        window: Values shown as black and white; by default the 0.5 and 99.5 percentile of what is shown.
        channel: The channel that is shown as grey values.
        ignore_label: Value of the reference that is neither drawn nor compared.
    """
    compared = predicted
    if reference is not None and ignore_label is not None:
        reference, compared = hide_ignored(reference, predicted, ignore_label)
    panels = cut_panels(image, reference, predicted, channel)
    drawn = _choose_labels(panels, names)
    figure = _lay_out(panels)
    span = window or _choose_window(panels)
    for axes, panel in zip(figure.axes, panels, strict=True):
        _draw_panel(axes, panel, drawn, span)
    _draw_scale_bar(figure, panels[0])
    dice = "" if reference is None else _word_dice(reference, compared, drawn)
    _draw_words(figure, case_id, dice, _word_note(panels, len(drawn), len(names)))
    _draw_legend(figure, drawn, reference is not None)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=PAPER, metadata={"Software": None})
    return stream.getvalue()


def _lay_out(panels: list[Panel]) -> Figure:
    """Return a figure with one empty axes per panel in a row, one scale for all."""
    from matplotlib.figure import Figure

    heights, widths = zip(*(panel.size_mm for panel in panels), strict=True)
    gaps = GAP * (len(panels) + 1)
    scale = min((MAX_WIDTH - gaps) / sum(widths), MAX_HEIGHT / max(heights))  # inches per mm
    width = max(sum(widths) * scale + gaps, MIN_WIDTH)
    height = max(heights) * scale + HEAD + FOOT
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=PAPER)
    left = (width - sum(widths) * scale - gaps) / 2 + GAP
    for panel in panels:
        rows, columns = (size * scale for size in panel.size_mm)
        bottom = FOOT + (max(heights) * scale - rows) / 2
        figure.add_axes((left / width, bottom / height, columns / width, rows / height))
        left += columns + GAP
    return figure


def _draw_panel(axes: Axes, panel: Panel, names: Mapping[int, str], window: tuple[float, float]) -> None:
    rows, columns = panel.predicted.shape
    height, width = panel.size_mm
    low, high = window
    shown = np.clip((panel.image.astype(np.float32) - low) / (high - low), 0, 1)
    extent = (0.0, width, height, 0.0)
    is_enlarged = axes.get_window_extent().width > columns
    smooth = "bicubic" if is_enlarged else "hanning"
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto", interpolation=smooth)
    x = (np.arange(-1, columns + 1) + 0.5) * panel.pixel_mm[1]
    y = (np.arange(-1, rows + 1) + 0.5) * panel.pixel_mm[0]
    for (cold, warm), label in zip(PAIRS, names, strict=False):
        for labels, colour, style in ((panel.reference, cold, "-"), (panel.predicted, warm, DASH)):
            if labels is None or not (labels == label).any():
                continue
            mask = np.pad(labels == label, 1).astype(np.float32)
            axes.contour(x, y, mask, levels=[0.5], colors=[colour], linewidths=LINE, linestyles=[style])
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.set_title(panel.title, color=INK, size=9, pad=4)
    spots = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.98), (0.5, 0.02))
    sides = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (column, row), (across, up) in zip(panel.letters, spots, sides, strict=False):
        text = axes.text(column, row, letter, transform=axes.transAxes, color=INK, size=10, ha=across, va=up)
        text.set_path_effects(_outline(2.5))


def _draw_scale_bar(figure: Figure, panel: Panel) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten below the first panel, at most a third as wide.

    The true size of a PNG or TIFF picture is not known: its bar counts pixels.
    """
    axes = figure.axes[0]
    height, width = panel.size_mm
    power = 10 ** math.floor(math.log10(width / 3))
    length = max(n * power for n in (1, 2, 5) if n * power <= width / 3)
    unit = "mm" if panel.letters else "pixels"
    row = height * (1 + 10 / 72 / (axes.get_position().height * figure.get_figheight()))
    ends = [width - length, width]
    axes.plot(ends, [row, row], color=INK, linewidth=2.5, solid_capstyle="butt", clip_on=False)
    axes.annotate(
        f"{length:g} {unit}", (ends[0], row), xytext=(-5, 0), textcoords="offset points", color=INK, size=9,
        ha="right", va="center", annotation_clip=False,
    )  # fmt: skip


def _draw_words(figure: Figure, title: str, dice: str, note: str) -> None:
    width, height = figure.get_size_inches()
    line = 1 - 0.3 / height
    across: dict[str, Any] = {"color": INK, "va": "center", "parse_math": False}
    figure.text(GAP / width, line, title, size=13, weight="bold", **across)
    figure.text(1 - GAP / width, line, dice, size=11, ha="right", **across)
    figure.text(0.5, 0.14 / height, note, size=8, ha="center", **{**across, "color": FAINT})


def _draw_legend(figure: Figure, names: Mapping[int, str], has_reference: bool) -> None:
    from matplotlib.lines import Line2D

    lines = []
    for (cold, warm), name in zip(PAIRS, names.values(), strict=False):
        if has_reference:
            lines.append(Line2D([], [], color=cold, linewidth=2, label=f"{name}, reference"))
        lines.append(Line2D([], [], color=warm, linewidth=2, linestyle=DASH, label=f"{name}, predicted"))
    legend = figure.legend(
        handles=lines, loc="center", bbox_to_anchor=(0.5, 0.46 / figure.get_figheight()), frameon=False,
        ncols=min(len(lines), 4) or 1, labelcolor=INK, fontsize=10, handlelength=2.6,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _word_note(panels: list[Panel], drawn: int, known: int) -> str:
    notes = [f"{drawn} of {known} labels are drawn, the largest here."] if drawn < known else []
    if panels[0].letters:
        notes.append("Radiological convention: the patient's right is on the left.")
    if len(panels) > 1:
        notes.append("One scale in all planes.")
    return "  ".join(notes)


def _choose_labels(panels: list[Panel], names: Mapping[int, str]) -> dict[int, str]:
    """Return the labels with the largest area in these panels, one per pair of colours."""
    maps = [m for panel in panels for m in (panel.reference, panel.predicted) if m is not None]
    area = {label: sum(np.count_nonzero(m == label) for m in maps) for label in names}
    largest = sorted(names, key=lambda label: -area[label])[: len(PAIRS)]
    return {label: name for label, name in names.items() if label in largest}


def _word_dice(reference: NDArray[Any], predicted: NDArray[Any], names: Mapping[int, str]) -> str:
    """Dice = 2 |A and B| / (|A| + |B|), over the whole image; left out where a label is in neither map."""
    words = []
    for label, name in names.items():
        truth, found = reference == label, predicted == label
        total = np.count_nonzero(truth) + np.count_nonzero(found)
        if total:
            words.append(f"{name} {2 * np.count_nonzero(truth & found) / total:.2f}")
    return "Dice   " + "    ".join(words) if words else "Dice undefined: nothing to find, nothing found"


def _choose_window(panels: list[Panel]) -> tuple[float, float]:
    if panels[0].image.ndim == 3 and panels[0].image.dtype == np.uint8:
        return 0.0, 255.0
    values = np.concatenate([panel.image.ravel() for panel in panels]).astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, PERCENTILES).tolist()
    return (low, high) if high > low else (low, low + 1.0)


def _outline(width: float) -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground=PAPER)]
