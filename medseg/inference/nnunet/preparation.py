"""One case as nnU-Net's DefaultPreprocessor prepares it, and the way back.

Order: its axes -> crop to the non-zero box -> normalise -> resample, in float32. Its arrays have the axes of the
file in reverse (as SimpleITK gives them), then permuted by the plans; slices of 2D networks lie along the first
of these, which is our last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.core.volume import Axes, Volume, canonical_axes, to_axes
from medseg.data.checks import nonzero_box
from medseg.data.preprocess import Placement
from medseg.data.resample import resample_image
from medseg.inference.nnunet.intensities import Scheme, normalize
from medseg.inference.nnunet.plans import READERS
from medseg.inference.nnunet.resampling import Resampling

if TYPE_CHECKING:
    from medseg.inference.model import TrainedModel
    from medseg.inference.segment import Segmenter

Triple = tuple[int, int, int]


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
    """

    reader: str
    transpose: Triple
    spacing_mm: tuple[float, ...]
    schemes: tuple[Scheme, ...]
    image: Resampling
    mask: Resampling
    logits: Resampling
    previous: TrainedModel | None = None

    def __call__(self, volume: Volume) -> tuple[NDArray[np.float32], Placement]:
        """Return the (C, I, J, K) array that the networks take, and how to get back."""
        axes = self._find_axes(volume.geometry)
        array, working = to_axes(volume.array, volume.geometry, axes)
        start, stop = nonzero_box(array)
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        image = array[(slice(None), *box)].astype(np.float32)
        normalize(image, self.schemes)
        spacing_mm = _exact_spacing(working)
        target_mm = self.spacing_mm if len(self.spacing_mm) == 3 else (*self.spacing_mm, spacing_mm[2])
        cropped = working.crop(start, stop)
        i, j, k = (
            max(1, round(old / new * n)) for n, old, new in zip(cropped.shape, spacing_mm, target_mm)
        )
        if (i, j, k) != cropped.shape:
            orders = self.image.choose_orders(spacing_mm, target_mm)
            image = resample_image(image, (i, j, k), orders=orders)
        placement = Placement(
            volume.geometry,
            working,
            start,
            stop,
            cropped.resample((i, j, k)),
            axes=axes,
            orders=self.logits.choose_orders(target_mm, spacing_mm),
        )
        if self.previous is not None:
            orders = self.mask.choose_orders(spacing_mm, target_mm)
            image = np.concatenate([image, self._find_mask(volume, placement, orders)])
        return image, placement

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
        return Segmenter(self.previous, self.previous.infer)

    def _find_mask(self, volume: Volume, placement: Placement, orders: Triple) -> NDArray[np.float32]:
        """Return one channel per label of the previous model's mask."""
        model = self._segmenter.model
        labels, _ = self._segmenter.segment(*model.preprocess(volume))
        stored, _ = to_axes(labels.array, volume.geometry, placement.working_axes)
        box = tuple(slice(a, b) for a, b in zip(placement.start, placement.stop))
        return one_hot(stored[box], sorted(model.data.labels), placement.grid.shape, orders)


def one_hot(
    labels_IJK: NDArray[Any], values: list[int], shape: Triple, orders: Triple
) -> NDArray[np.float32]:
    """Return (labels, *shape) channels, 1 where a label has half the interpolated weight or more.

    Of two with half of it each the later wins; where none has it, all are 0 (batchgenerators,
    `resize_segmentation`).
    """
    channels = np.zeros((len(values), *shape), np.float32)
    for index, value in enumerate(values):
        weight = (labels_IJK == value).astype(np.float32)
        if labels_IJK.shape != shape:
            weight = resample_image(weight[np.newaxis], shape, orders=orders)[0]
        is_label = weight >= 0.5
        channels[:index, is_label] = 0
        channels[index, is_label] = 1
    return channels


def _exact_spacing(geometry: Geometry) -> tuple[float, float, float]:
    """Return the spacing as stored: nnU-Net does not round it, and half voxels of a shape hang on that."""
    i, j, k = (float(step) for step in np.linalg.norm(geometry.affine[:3, :3], axis=0))
    return i, j, k
