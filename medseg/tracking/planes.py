"""Decide what an overlay shows: which slices, which part of them, which way up.

Everything is decided on the canonical (RAS+) array and returned as plain data; `overlay` only draws it.
Radiological convention: the patient's right is on the left of axial and coronal pictures, anterior on the
left of sagittal ones; superior and anterior are up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import LETTERS
from medseg.core.volume import Volume, to_canonical

PLANES = (("axial", 2, "inferior"), ("coronal", 1, "posterior"), ("sagittal", 0, "left"))  # axis looked along
MIN_VIEW_MM = 80.0  # a lesion of a few voxels is shown with the anatomy around it
VIEW_PER_OBJECT = 2.0  # width of the view over width of the segmented structures


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of one slice, rows downwards, columns to the right.

    Args:
        image: (H, W) grey values or (H, W, 3) colours.
        reference: (H, W) labels, or None where there is no reference.
        predicted: (H, W) labels.
        pixel_mm: (2,) height and width of a pixel.
        title: Plane and position of the slice in the canonical order, "" for a picture.
        letters: Patient sides at the left, right, top and bottom edge, "" for a picture.
    """

    image: NDArray[Any]
    reference: NDArray[Any] | None
    predicted: NDArray[Any]
    pixel_mm: tuple[float, float]
    title: str = ""
    letters: str = ""

    @property
    def size_mm(self) -> tuple[float, float]:
        """(2,) height and width of the picture."""
        rows, columns = self.predicted.shape
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


def cut_panels(
    image: Volume, reference: NDArray[Any] | None, predicted: NDArray[Any], channel: int = 0
) -> list[Panel]:
    """Return axial, coronal and sagittal panels of a volume, or one panel of a single slice or a picture.

    Each plane shows the slice with the largest cross-section of the reference (of the prediction where the
    reference is absent or empty, the middle where both are), cropped to the structures and what is around.

    Args:
        image: In any orientation. A picture, which has no position (K = 1, identity affine), is shown with
            its first axis downwards, its second to the right, and three channels as red, green and blue.
        reference: (I, J, K) on the grid of `image`, or None.
        predicted: (I, J, K) on the grid of `image`.
        channel: The channel that is shown as grey values.
    """
    if image.geometry.shape[2] == 1 and np.array_equal(image.geometry.affine, np.eye(4)):
        return [_cut_picture(image, reference, predicted, channel)]
    values, geometry = to_canonical(image.array[channel], image.geometry)
    found, _ = to_canonical(predicted, image.geometry)
    truth = None if reference is None else to_canonical(reference, image.geometry)[0]
    target = truth if truth is not None and truth.any() else found
    view = _choose_view((found > 0) if truth is None else (found > 0) | (truth > 0), geometry.spacing_mm)
    panels = []
    for name, axis, origin in PLANES:
        if 1 in geometry.shape and geometry.shape[axis] > 1:
            continue  # a single slice, seen edge-on
        position = choose_slice(target, axis)
        box = tuple(slice(position, position + 1) if a == axis else view[a] for a in range(3))
        across, up = (a for a in range(3) if a != axis)
        panel = Panel(
            image=_turn(values[box], axis),
            reference=None if truth is None else _turn(truth[box], axis),
            predicted=_turn(found[box], axis),
            pixel_mm=(geometry.spacing_mm[up], geometry.spacing_mm[across]),
            title=f"{name}, slice {position + 1} of {geometry.shape[axis]} from {origin}",
            letters=LETTERS[across][1] + LETTERS[across][0] + LETTERS[up][1] + LETTERS[up][0],
        )
        panels.append(panel)
    return panels


def choose_slice(labels: NDArray[Any], axis: int) -> int:
    """Return the index along `axis` with the most foreground, the middle one of equals."""
    area = np.count_nonzero(labels, axis=tuple(a for a in range(3) if a != axis))
    largest = np.flatnonzero(area == area.max())
    return int(largest[len(largest) // 2])


def _cut_picture(image: Volume, truth: NDArray[Any] | None, found: NDArray[Any], channel: int) -> Panel:
    flat = image.array[..., 0]
    picture = np.moveaxis(flat, 0, -1) if len(flat) == 3 else flat[channel]
    return Panel(picture, None if truth is None else truth[..., 0], found[..., 0], (1.0, 1.0))


def _choose_view(foreground: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> tuple[slice, ...]:
    """Return the box of all foreground, widened by VIEW_PER_OBJECT and to MIN_VIEW_MM, within the grid."""
    view = []
    for axis, size in enumerate(foreground.shape):
        filled = np.flatnonzero(foreground.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(filled):
            view.append(slice(0, size))
            continue
        length = max(VIEW_PER_OBJECT * (filled[-1] - filled[0] + 1), MIN_VIEW_MM / spacing_mm[axis])
        start = max(0, int((filled[0] + filled[-1] + 1 - length) // 2))
        view.append(slice(start, min(size, int(start + length + 1))))
    return tuple(view)


def _turn(box: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return (rows, columns): the higher world axis upwards, the positive end of the other on the left."""
    return np.squeeze(box, axis).T[::-1, ::-1]
