"""Bring one case to the plan's grid and intensities, and remember the way back.

Order: canonical axes -> crop to the non-zero box -> normalise -> resample (nnU-Net's order). The result
is float16 in training and in inference alike, so that a model sees in use exactly what it was
trained on; 11 bits of precision are finer than the noise of any scanner after a z-score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.files import sha256_of
from medseg.core.geometry import Geometry
from medseg.core.volume import Axes, Volume, canonical_axes, from_axes, to_axes, to_canonical
from medseg.data.checks import nonzero_box
from medseg.data.plan import Normalization, Plan
from medseg.data.resample import Orders, choose_orders, resample_image, resample_labels

VERSION = 1  # part of every key: raise it when the result of preprocessing changes


@dataclass(frozen=True)
class Placement:
    """Where a preprocessed array sits in the scan it was taken from.

    Args:
        original: The grid as stored.
        canonical: The same voxels on the axes that the network works on.
        start, stop: (3,) the box that was kept, in voxels of those axes.
        grid: The preprocessed array's grid.
        axes: Which axes these are; None: canonical ones. Models of other software have their own.
        orders: Interpolation orders of the way back; None: by the rule of `linear_orders`.
    """

    original: Geometry
    canonical: Geometry
    start: tuple[int, ...]
    stop: tuple[int, ...]
    grid: Geometry
    axes: Axes | None = None
    orders: Orders | None = None

    @property
    def working_axes(self) -> Axes:
        """Where each axis of the preprocessed array comes from."""
        return canonical_axes(self.original) if self.axes is None else self.axes

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Shape of the kept box before resampling."""
        return tuple(b - a for a, b in zip(self.start, self.stop))

    @property
    def linear_orders(self) -> tuple[int, int, int]:
        """Interpolation orders for labels and logits: linear, nearest across a coarse axis."""
        if self.orders is not None:
            return self.orders
        return choose_orders(self.canonical.spacing_mm, self.grid.spacing_mm, order=1)

    def to_stored(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring (..., I, J, K) on the whole of `canonical` back to the storage order of `original`."""
        return from_axes(array, self.working_axes)


def preprocess_image(volume: Volume, plan: Plan) -> tuple[NDArray[np.float16], Placement]:
    """Return the (C, I, J, K) array on the plan's grid, and how to get back."""
    array, canonical = to_canonical(volume.array, volume.geometry)
    start, stop = nonzero_box(array)
    box = tuple(slice(a, b) for a, b in zip(start, stop))
    cropped = canonical.crop(start, stop)
    target_mm = plan.spacing_mm
    if plan.dims == 2:  # slices are seen one by one: none is made up between two others
        target_mm = (*target_mm[:2], cropped.spacing_mm[2])
    shape = target_shape(cropped, target_mm)
    image = normalize(array[(slice(None), *box)], plan.normalization)
    if shape != cropped.shape:
        orders = choose_orders(cropped.spacing_mm, target_mm)
        image = resample_image(image, shape, orders=orders)
    placement = Placement(volume.geometry, canonical, start, stop, cropped.resample(shape))
    limit = float(np.finfo(np.float16).max)
    np.clip(image, -limit, limit, out=image)
    return image.astype(np.float16), placement


def preprocess_classes(classes: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """Bring a stored-order (I, J, K) class map to the placement's grid, inventing no value."""
    array, _ = to_axes(classes, placement.original, placement.working_axes)
    box = tuple(slice(a, b) for a, b in zip(placement.start, placement.stop))
    shape = placement.grid.shape
    array = np.ascontiguousarray(array[box])
    if shape == array.shape:
        return array
    return np.asarray(resample_labels(array, shape, orders=placement.linear_orders), np.uint8)


def target_shape(grid: Geometry, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """Return the voxel counts at a new spacing; an axis of one voxel, and a 1e-3 match, is kept."""
    i, j, k = (
        n if n == 1 or abs(old / new - 1) < 1e-3 else max(1, round(n * old / new))
        for n, old, new in zip(grid.shape, grid.spacing_mm, spacing_mm, strict=True)
    )
    return i, j, k


def normalize(image_CIJK: NDArray[Any], steps: Sequence[Normalization]) -> NDArray[np.float32]:
    """Clip, shift and scale each channel; a constant channel becomes 0."""
    out = np.empty(image_CIJK.shape, np.float32)
    for channel, step, target in zip(image_CIJK, steps, out, strict=True):
        np.copyto(target, channel, casting="unsafe")
        if step.low is not None or step.high is not None:
            np.clip(target, step.low, step.high, out=target)
        # float64 sums: the mean of a big volume in float32 loses digits.
        shift = float(target.mean(dtype=np.float64)) if step.shift is None else step.shift
        target -= np.float32(shift)
        scale = (
            float(np.sqrt(np.mean(np.square(target), dtype=np.float64))) if step.scale is None else step.scale
        )
        target /= np.float32(max(scale, 1e-8))
    return out


def preprocessing_key(plan: Plan, labels: Sequence[int]) -> str:
    """Return a hash of everything that decides the preprocessed values, inputs excepted."""
    normalization = [vars(step) for step in plan.normalization]
    return sha256_of(
        {
            "version": VERSION,
            "dims": plan.dims,
            "spacing_mm": plan.spacing_mm,
            "normalization": normalization,
            "labels": list(labels),
        }
    )
