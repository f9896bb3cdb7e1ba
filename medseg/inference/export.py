"""Slabs of logits in, masks and probabilities on the scan's own grid out, as they become known.

The result is that of resampling all logits linearly (nearest across a coarse axis) and taking the largest,
but neither is ever held: a plane is resampled once the one after it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.core.volume import view_axes
from medseg.data.preprocess import Placement
from medseg.inference.layers import Float, Layer, Plane, compare_classes, compare_regions, interpolate
from medseg.inference.lines import make_lines
from medseg.inference.predict import Slab

PLANES = 1 << 25  # logits of planes that a late head makes at once: 128 MB
PART = 1 << 22  # probabilities made at once: 16 MB a thread, a few times over
WRITTEN_BYTES = 1 << 22  # of them written before their memory is given back
FULL = 65535  # probability 1 as it is stored

Release = Callable[[NDArray[Any]], None]
Paint = Callable[[Layer, Sequence[Plane], Float], NDArray[Any]]


class Target(Protocol):
    """Something that new planes are written to."""

    def paint(self, layer: Layer, planes: Sequence[Plane], weights: Float, new: slice) -> None:
        """Write new planes of one layer; those of different layers may be written at the same time."""


class Exporter:
    """Takes slabs in order.

    Args:
        placement: The way back.
        axis: The slab axis.
        targets: What to write.
    """

    def __init__(self, placement: Placement, axis: int, targets: Sequence[Target]) -> None:
        shapes = placement.grid.shape, placement.box_shape
        self._line, *plane = make_lines(*shapes, placement.linear_orders, axis)
        self._layer = Layer(*plane)
        self._targets = targets
        self._planes = 0  # seen so far
        self._last: Plane | None = None

    def add(self, slab: Slab) -> None:
        """Write all new planes that are known with this slab."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            count = slab.stop - slab.start
            step = max(2, PLANES // (slab.plane(0).numel())) if slab.head else count
            for start in range(0, count, step):
                indices = range(start, min(count, start + step))
                planes = [Plane(slab.plane(index).cpu().numpy()) for index in indices]
                self._add_planes(planes, pool)
        assert self._last is not None, "a slab has at least one plane"
        self._last = self._last.keep()

    def finish(self) -> None:
        """Check that all slabs were there."""
        assert self._planes == self._line.n_in, "slabs are missing"

    def _add_planes(self, planes: Sequence[Plane], pool: ThreadPoolExecutor) -> None:
        bounds: list[tuple[Plane, ...]] = [(plane,) for plane in planes]
        first = self._planes
        if self._line.is_linear:
            before = [*([self._last] if self._last else []), *planes]
            bounds = list(pairwise(before))
            first -= self._last is not None
        _wait(pool.map(lambda plane: plane.classes, planes))
        _wait(pool.map(self._paint, range(first, first + len(bounds)), bounds))
        self._planes += len(planes)
        self._last = planes[-1]

    def _paint(self, cell: int, planes: Sequence[Plane]) -> None:
        new = self._line.find(cell, cell + 1)
        if new.start < new.stop:
            weights = np.stack([self._line.low[new], self._line.high[new]], axis=1)[:, : len(planes)]
            for target in self._targets:
                target.paint(self._layer, planes, weights, new)


class Mask:
    """A class map on the scan's grid; outside the kept box it is background.

    Args:
        placement: The way back.
        axis: The slab axis.
        n_outputs: Classes or regions.
        paints: The class that each region paints, where outputs are regions.
    """

    def __init__(self, placement: Placement, axis: int, n_outputs: int, paints: Sequence[int] = ()) -> None:
        kind = np.uint8 if n_outputs <= 256 else np.uint16
        self.array: NDArray[Any] = np.zeros(placement.original.shape, kind)
        self._box = _box(self.array, placement, axis)
        self._compare: Paint = partial(compare_regions, paints=paints) if paints else compare_classes

    def paint(self, layer: Layer, planes: Sequence[Plane], weights: Float, new: slice) -> None:
        """Write new planes."""
        self._box[new] = self._compare(layer, planes, weights)


class Probabilities:
    """Probabilities on the scan's grid; outside the kept box background is 1, or no region.

    Args:
        array: (C, I, J, K) on the scan's grid, of zeros; float32, or uint16 for steps of 1/65535.
        placement: The way back.
        axis: The slab axis.
        are_regions: Whether outputs overlap.
        temperatures: That logits are divided by: one for all classes, or one a region.
        release: Called with each part that was written, to give back the memory of an array in a file.
    """

    def __init__(
        self,
        array: NDArray[Any],
        placement: Placement,
        axis: int,
        *,
        are_regions: bool = False,
        temperatures: Sequence[float] = (1.0,),
        release: Release = lambda part: None,
    ) -> None:
        self._box = _box(array, placement, axis)
        self._is_stepped = array.dtype == np.uint16
        self._activate = _apply_sigmoid if are_regions else _apply_softmax
        self._temperatures = np.array(temperatures, np.float32)[:, None, None]
        self._release = release
        # Parts of a plane are cut along the axis that is slower in memory: each then lies close together.
        self._cuts_rows = abs(self._box.strides[2]) >= abs(self._box.strides[3])
        if not are_regions and self._box[0].size < array[0].size:
            stored_axis = placement.working_axes[axis][0]
            for plane in np.moveaxis(array[0], stored_axis, 0):
                plane[...] = FULL if self._is_stepped else 1
                release(plane)

    def paint(self, layer: Layer, planes: Sequence[Plane], weights: Float, new: slice) -> None:
        """Write new planes, a part of each at a time."""
        classes, size = len(planes[0].logits), [len(layer.rows.cell), len(layer.columns.cell)]
        length, width = size if self._cuts_rows else size[::-1]
        step = max(1, PART // (classes * width))
        for index, share in zip(range(new.start, new.stop), weights, strict=True):
            mixed = _mix(planes, share)
            for start in range(0, length, step):
                cut = slice(start, min(length, start + step))
                part = (cut, slice(None)) if self._cuts_rows else (slice(None), cut)
                values = interpolate(layer, mixed, *part)
                values /= self._temperatures
                values = self._activate(values)
                if self._is_stepped:
                    values *= FULL
                    np.rint(values, out=values)
                self._write(self._box[(slice(None), index, *part)], values)

    def _write(self, target: NDArray[Any], values: Float) -> None:
        """Write (C, X, Y), some classes at a time."""
        step = max(1, WRITTEN_BYTES // max(1, target[0].nbytes))
        for first in range(0, len(target), step):
            some = slice(first, first + step)
            target[some] = values[some]
            self._release(target[some])


def _mix(planes: Sequence[Plane], share: Float) -> Float:
    if len(planes) == 1:
        return planes[0].logits
    mixed: Float = planes[0].logits * share[0]
    mixed += planes[1].logits * share[1]
    return mixed


def _apply_softmax(logits_C: Float) -> Float:
    logits_C -= logits_C.max(axis=0, keepdims=True)
    np.exp(logits_C, out=logits_C)
    logits_C /= logits_C.sum(axis=0, keepdims=True)
    return logits_C


def _apply_sigmoid(logits_C: Float) -> Float:
    from scipy.special import expit

    return np.asarray(expit(logits_C), np.float32)


def _box(array: NDArray[Any], placement: Placement, axis: int) -> NDArray[Any]:
    """Return a view of the kept box of (..., I, J, K) on the scan's grid, the slab axis first."""
    lead = array.ndim - 3
    box = [slice(a, b) for a, b in zip(placement.start, placement.stop)]
    inside = view_axes(array, placement.working_axes)[(*[slice(None)] * lead, *box)]
    return np.moveaxis(inside, lead + axis, lead)


def _wait(results: Iterable[object]) -> None:
    """Raise what a thread raised."""
    for _ in results:
        pass
