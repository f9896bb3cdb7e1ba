"""Fit a scan and its masks into a budget of bytes: what to crop, how far to reduce, and what to say of it.

All arrays lie on canonical axes (closest to R, A, S). The whole scan is kept where it fits; else what is
around the structures; else that with larger voxels, the finest axes first, so that they become cubes before
they grow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.metrics.pair import find_box
from medseg.tracking.review.encode import choose_levels, pack, pack_grey, quantize
from medseg.tracking.review.sampling import Span, sample_image, sample_labels, weigh_axis

MARGIN_MM = 20.0  # around all structures, at least
MARGIN_SHARE = 0.1  # ... and this share of their extent
VOXELS_PER_BYTE = 4.0  # more do not fit: not worth an attempt
FIRST_GUESS = 1.6  # voxels of one channel and two masks in a byte of text, of a noisy scan
MAX_LABELS = 254  # structures that images tell apart
OTHER = 255  # a stored value that no label has, such as an ignored voxel
ROUNDS = 12
AIM, WELL_USED = 0.93, 0.85  # share of the budget


@dataclass(frozen=True)
class Channel:
    """What the grey values of a channel are: shown = stored * scale + shift."""

    name: str
    unit: str = ""
    scale: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True, eq=False)
class Scene:
    """A case as it is given to the page.

    Args:
        geometry: The masks' grid, on canonical axes; a picture's on its own.
        predicted: (I, J, K) on it, or None where there is no mask.
        reference: (I, J, K) on it, or None.
        image: (C, ...) samples of the box `held` of that grid, or None; sliced only.
        held: First and last edge per axis, in voxels of `geometry`; None: all of it.
        channels: (C,).
        note: Of the grey values, a sentence.
    """

    geometry: Geometry
    predicted: NDArray[Any] | None
    reference: NDArray[Any] | None = None
    image: Any = None
    held: Sequence[Span] | None = None
    channels: Sequence[Channel] = ()
    note: str = ""


def cut_scene(scene: Scene, values: Sequence[int], max_bytes: int) -> dict[str, Any]:
    """Return plain data for the page, not larger than `max_bytes` as text where that is possible at all.

    Args:
        scene: The case.
        values: Stored values of the labels; in the page a voxel holds the label's place in this list, from 1.
        max_bytes: Of text; the largest part is the image.
    """
    whole = [(0.0, float(n)) for n in scene.geometry.shape]
    near = whole if scene.geometry.is_picture else _choose_box(scene)
    channels = max(1, len(scene.channels))
    for box in [whole, near] if near != whole else [whole]:
        shape = _count(box)
        if np.prod(shape) * channels > VOXELS_PER_BYTE * max_bytes:
            continue
        found = _encode(scene, values, box, shape)
        if measure_bytes(found) <= max_bytes:
            return found
    return _fit(scene, values, near, max_bytes)


def _fit(scene: Scene, values: Sequence[int], box: Sequence[Span], max_bytes: int) -> dict[str, Any]:
    """Return the box with voxels as small as fit: how well they pack is known only once they are packed."""
    most = float(np.prod(_count(box)))
    voxels = min(most, FIRST_GUESS * max_bytes / max(1, len(scene.channels)))
    best: dict[str, Any] | None = None
    for _ in range(ROUNDS):
        found = _encode(scene, values, box, _reduce(box, scene.geometry.spacing_mm, voxels))
        size = measure_bytes(found)
        if size <= max_bytes:
            best = found
        if best is not None and (size > max_bytes or size > WELL_USED * max_bytes or voxels >= most):
            break
        voxels = min(most, voxels * AIM * max_bytes / size)
    return best or found


def measure_bytes(block: Mapping[str, Any]) -> int:
    """Return about how much text a block is."""
    packed = [block["predicted"], block["reference"], *(c["data"] for c in block["channels"])]
    return sum(len(text or "") for text in packed) + 2500 * len(block["channels"]) + 1000


def _choose_box(scene: Scene) -> list[Span]:
    """Return the box around all structures with its margin; all of the grid where there is none."""
    masks = [mask for mask in (scene.predicted, scene.reference) if mask is not None]
    boxes = [box for mask in masks if (box := find_box(mask > 0)) is not None]
    spans = []
    for axis, (n, mm) in enumerate(zip(scene.geometry.shape, scene.geometry.spacing_mm, strict=True)):
        first = min((box[axis].start for box in boxes), default=0)
        last = max((box[axis].stop for box in boxes), default=n)
        margin = np.ceil(max(MARGIN_MM / mm, MARGIN_SHARE * (last - first)))
        spans.append((float(max(0, first - margin)), float(min(n, last + margin))))
    return spans


def _reduce(box: Sequence[Span], spacing_mm: Sequence[float], voxels: float) -> tuple[int, ...]:
    """Return the shape of about `voxels` voxels: no axis finer than one size, none coarser than it is."""
    shape = np.array(_count(box))
    spacing = np.array(spacing_mm)
    low, high = float(spacing.min()), float((shape * spacing).max())
    for _ in range(40):
        size = (low + high) / 2
        low, high = (size, high) if np.prod(_resize(shape, spacing, size)) > voxels else (low, size)
    return tuple(int(n) for n in _resize(shape, spacing, high))


def _resize(shape: NDArray[Any], spacing: NDArray[Any], size_mm: float) -> NDArray[Any]:
    return np.maximum(1, np.floor(shape * np.minimum(1, spacing / size_mm) + 1e-6)).astype(int)


def _count(box: Sequence[Span]) -> tuple[int, ...]:
    return tuple(int(last - first) for first, last in box)


def _encode(
    scene: Scene, values: Sequence[int], box: Sequence[Span], shape: tuple[int, ...]
) -> dict[str, Any]:
    geometry = scene.geometry
    spacing = [mm * n / m for mm, n, m in zip(geometry.spacing_mm, _count(box), shape, strict=True)]
    masks = {
        name: None if mask is None else pack(_number(sample_labels(mask, box, shape), values))
        for name, mask in (("reference", scene.reference), ("predicted", scene.predicted))
    }
    return {
        "shape": list(shape),
        "spacing": [round(mm, 5) for mm in spacing],
        "scan": list(geometry.shape),
        "start": [int(first) for first, _ in box],
        "stop": [int(last) for _, last in box],
        "picture": geometry.is_picture,
        "channels": _encode_channels(scene, box, shape),
        "note": " ".join(_word_cut(geometry, box, shape, spacing) + ([scene.note] if scene.note else [])),
        **masks,
    }


def _encode_channels(scene: Scene, box: Sequence[Span], shape: tuple[int, ...]) -> list[dict[str, Any]]:
    if scene.image is None:
        return []
    held = scene.held or [(0.0, float(n)) for n in scene.geometry.shape]
    n_CIJK = scene.image.shape
    weights = [weigh_axis(n_CIJK[1 + axis], held[axis], box[axis], shape[axis]) for axis in range(3)]
    found = []
    for place, channel in enumerate(scene.channels):
        grey = sample_image(_Channel(scene.image, place), weights)
        grey = grey * np.float32(channel.scale) + np.float32(channel.shift)
        levels = choose_levels(grey)
        packed = pack_grey(quantize(grey, levels))
        rounded = [float(f"{level:.6g}") for level in levels]
        found.append({"name": channel.name, "unit": channel.unit, "levels": rounded, "data": packed})
    return found


class _Channel:
    """One channel of an array that is only ever sliced."""

    def __init__(self, array: Any, place: int) -> None:
        self._array, self._place = array, place

    def __getitem__(self, box: tuple[slice, ...]) -> Any:
        return self._array[(self._place, *box)]


def _number(labels: NDArray[Any], values: Sequence[int]) -> NDArray[np.uint8]:
    numbered = np.where(labels == 0, 0, OTHER).astype(np.uint8)
    for place, value in enumerate(values[:MAX_LABELS], start=1):
        numbered[labels == value] = place
    return numbered


def _word_cut(
    geometry: Geometry, box: Sequence[Span], shape: Sequence[int], spacing: Sequence[float]
) -> list[str]:
    """Say what of the scan is shown, and how finely."""
    kept, is_picture = _count(box), geometry.is_picture
    unit = "pixels" if is_picture else "voxels"
    used = slice(0, 2) if is_picture else slice(0, 3)
    words = []
    if kept != geometry.shape:
        share = 100 * np.prod(kept) / np.prod(geometry.shape)
        words.append(
            f"Cropped to {_times(kept)} of {_times(geometry.shape)} {unit}, {share:.2g} % of the scan."
        )
    if tuple(shape) != kept:
        before, after = (_times(np.round(size, 2)) for size in (geometry.spacing_mm, spacing))
        size = "" if is_picture else f": {after} mm instead of {before} mm"
        words.append(f"Reduced to {_times(shape[used])} {unit}{size}.")
    if not words:
        words.append(f"The whole scan, {_times(geometry.shape[used])} {unit}.")
    if not is_picture and (angle := _measure_tilt(geometry)) >= 1:
        words.append(f"Planes follow the scan's own axes, up to {angle:.0f} degrees from the patient's.")
    return words


def _measure_tilt(geometry: Geometry) -> float:
    cosines = np.abs(np.diag(geometry.direction)).clip(0, 1)
    return float(np.degrees(np.arccos(cosines)).max())


def _times(numbers: Any) -> str:
    return " × ".join(f"{number:g}" for number in numbers)
