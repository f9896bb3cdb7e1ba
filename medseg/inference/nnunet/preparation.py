"""One case as nnU-Net's DefaultPreprocessor prepares it, and the way back.

Order: its axes -> crop to the non-zero box -> normalise -> resample, in float32. Its arrays have the axes of
the file in reverse (as SimpleITK gives them), then permuted by the plans; slices of 2D networks lie along the
first of these, which is our last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.core.volume import Axes, Volume, canonical_axes, grid_on_axes, to_axes
from medseg.data.checks import nonzero_box
from medseg.data.preprocess import Placement
from medseg.data.resample import TIE, Orders, resample_image
from medseg.inference.nnunet.intensities import Scheme, find_mask, normalize
from medseg.inference.nnunet.plans import READERS
from medseg.inference.nnunet.resampling import Resampling

if TYPE_CHECKING:
    from medseg.inference.segment import Segmenter
    from medseg.inference.trained import TrainedModel

Triple = tuple[int, int, int]
OUTSIDE = -1


@dataclass(frozen=True)
class Preparation:
    """What the plans say of preprocessing.

    Args:
        reader: How files are read, a key of `READERS`.
        transpose: (3,) `transpose_forward`.
        spacing_mm: (3,) wanted, or (2,) where slices are seen one by one; on nnU-Net's axes.
        schemes: Normalisation per channel.
        image, mask, logits: Resampling of each.
        previous: The model whose mask is an input too.
        backend: That it runs on.
    """

    reader: str
    transpose: Triple
    spacing_mm: tuple[float, ...]
    schemes: tuple[Scheme, ...]
    image: Resampling
    mask: Resampling
    logits: Resampling
    previous: TrainedModel | None = None
    backend: str = "torch"

    def __call__(self, volume: Volume) -> tuple[NDArray[np.float32], Placement]:
        """Return the (C, I, J, K) array that the networks take, and how to get back."""
        axes = self._find_axes(volume.geometry)
        array, working = to_axes(volume.array, volume.geometry, axes)
        start, stop = nonzero_box(array)
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        image = array[(slice(None), *box)].astype(np.float32)
        normalize(image, self.schemes)
        spacing_mm = _exact_spacing(working)
        target_mm = self._complete(spacing_mm)
        cropped = working.crop(start, stop)
        shape = _target_shape(cropped.shape, spacing_mm, target_mm)
        if shape != cropped.shape:
            orders = self.image.choose_orders(spacing_mm, target_mm)
            image = resample_image(image, shape, orders=orders)
        placement = Placement(
            volume.geometry,
            working,
            start,
            stop,
            cropped.resample(shape),
            axes=axes,
            orders=self.logits.choose_orders(target_mm, spacing_mm),
        )
        if self.previous is None:
            return image, placement
        labels, _ = self._segmenter.segment(*self.previous.preprocess(volume))
        return self.add_mask(image, placement, volume, labels.array), placement

    def grid_shape(self, geometry: Geometry) -> Triple:
        """Return the (I, J, K) that a scan will have; cropping, which no header tells of, aside."""
        working = grid_on_axes(geometry, self._find_axes(geometry))
        spacing_mm = _exact_spacing(working)
        return _target_shape(working.shape, spacing_mm, self._complete(spacing_mm))

    def add_mask(
        self, image_CIJK: NDArray[np.float32], placement: Placement, volume: Volume, labels: NDArray[Any]
    ) -> NDArray[np.float32]:
        """Return the image with a channel per label of the previous model's mask.

        Args:
            image_CIJK: As prepared.
            placement: Of the image.
            volume: The scan: background where it is 0 is a label of its own, with a weight of its own.
            labels: On the scan's grid.
        """
        assert self.previous is not None, "only a cascade takes a mask"
        outside = ~find_mask(volume.array) & (labels == 0)
        marked = np.where(outside, OUTSIDE, labels.astype(np.int32))
        stored, working = to_axes(marked, placement.original, placement.working_axes)
        spacing_mm = _exact_spacing(working)
        box = tuple(slice(a, b) for a, b in zip(placement.start, placement.stop))
        orders = self.mask.choose_orders(spacing_mm, self._complete(spacing_mm))
        channels = one_hot(stored[box], sorted(self.previous.data.labels), placement.grid.shape, orders)
        return np.concatenate([image_CIJK, channels])

    def _complete(self, spacing_mm: tuple[float, ...]) -> tuple[float, ...]:
        """Return the (3,) spacing wanted of a scan's; that across slices is the scan's own."""
        return self.spacing_mm if len(self.spacing_mm) == 3 else (*self.spacing_mm, spacing_mm[2])

    def _find_axes(self, geometry: Geometry) -> Axes:
        if READERS[self.reader]:
            read = canonical_axes(geometry)[::-1]
        elif geometry.is_picture:  # rows and columns, as image readers give them
            read = ((2, 1), (0, 1), (1, 1))
        else:
            read = ((2, 1), (1, 1), (0, 1))
        first, second, third = (read[axis] for axis in self.transpose)
        return (first, second, third) if len(self.spacing_mm) == 3 else (second, third, first)

    @cached_property
    def _segmenter(self) -> Segmenter:
        from medseg.inference.segment import Segmenter  # which knows models, and this is part of one

        assert self.previous is not None
        return Segmenter(self.previous, self.previous.infer, backend=self.backend)


def follow(model: TrainedModel, previous: TrainedModel, backend: str) -> TrainedModel:
    """Return a cascade whose first stage is another one, or runs on another backend."""
    assert isinstance(model.prepare, Preparation), "only nnU-Net has cascades"
    return replace(
        model, previous=previous, prepare=replace(model.prepare, previous=previous, backend=backend)
    )


def _target_shape(shape: Triple, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> Triple:
    i, j, k = (max(1, round(old / new * n)) for n, old, new in zip(shape, spacing_mm, target_mm))
    return i, j, k


def one_hot(
    labels_IJK: NDArray[Any], values: list[int], shape: Triple, orders: Orders
) -> NDArray[np.float32]:
    """Return (labels, *shape) channels, 1 where a label has the largest interpolated weight.

    Equal weights go to the nearest voxel's label where it has one of them, else to the lowest
    (batchgenerators, `resize_segmentation`).
    """
    if labels_IJK.shape != shape:
        labels_IJK = _vote(labels_IJK.astype(np.int32), shape, orders)
    return np.stack([labels_IJK == value for value in values]).astype(np.float32)


def _vote(labels_IJK: NDArray[np.int32], shape: Triple, orders: Orders) -> NDArray[np.int32]:
    nearest = resample_image(labels_IJK[np.newaxis], shape, orders=(0, 0, 0))[0].astype(np.int32)
    winner = np.zeros(shape, np.int32)
    best = np.zeros(shape, np.float32)
    is_nearest = np.zeros(shape, bool)  # whether the nearest label is among the best
    for value in np.unique(labels_IJK):
        weight = resample_image((labels_IJK == value)[np.newaxis], shape, orders=orders)[0]
        is_better, is_level = weight > best + TIE, np.abs(weight - best) <= TIE
        is_value = nearest == value
        is_nearest = np.where(is_better, is_value, is_nearest | (is_level & is_value))
        winner[is_better] = value
        np.maximum(best, weight, out=best)
    return np.where(is_nearest, nearest, winner)


def _exact_spacing(geometry: Geometry) -> tuple[float, float, float]:
    """Return the spacing as stored: nnU-Net does not round it, and half voxels of a shape hang on that."""
    i, j, k = (float(step) for step in np.linalg.norm(geometry.affine[:3, :3], axis=0))
    return i, j, k
