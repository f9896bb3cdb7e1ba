"""The straightforward way back: resample everything, then decide. What streamed export must equal."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.core.volume import from_canonical
from medseg.data.preprocess import Placement
from medseg.data.resample import resample_image
from medseg.inference.export import Exporter, Mask, Probabilities
from medseg.inference.predict import Slab


def resample_whole(logits: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """Return (C, *box) logits."""
    if logits.shape[1:] == placement.box_shape:
        return logits
    return resample_image(logits, placement.box_shape, orders=placement.linear_orders)


def put_back(box: NDArray, placement: Placement, fill: float = 0) -> NDArray:
    whole = np.full(placement.canonical.shape, fill, box.dtype)
    whole[tuple(slice(a, b) for a, b in zip(placement.start, placement.stop))] = box
    return from_canonical(whole, placement.original)


def cut_slabs(logits: NDArray[np.float32], axis: int, depth: int) -> list[Slab]:
    first = torch.from_numpy(logits).movedim(axis + 1, 1)
    starts = range(0, first.shape[1], depth)
    return [Slab(axis, a, min(first.shape[1], a + depth), first[:, a : a + depth]) for a in starts]


def export_classes(
    logits: NDArray, placement: Placement, axis: int = 0, depth: int = 3, paints=()
) -> NDArray:
    """Return the mask that streamed export makes of whole logits."""
    mask = Mask(placement, axis, len(logits), paints)
    exporter = Exporter(placement, axis, [mask])
    for slab in cut_slabs(logits, axis, depth):
        exporter.add(slab)
    exporter.finish()
    return mask.array


def export_probabilities(
    logits: NDArray, placement: Placement, axis: int = 0, depth: int = 3, *, are_regions: bool = False
) -> NDArray[np.float32]:
    """Return the probabilities that streamed export makes of whole logits."""
    found = np.zeros((len(logits), *placement.original.shape), np.float32)
    exporter = Exporter(placement, axis, [Probabilities(found, placement, axis, are_regions=are_regions)])
    for slab in cut_slabs(logits, axis, depth):
        exporter.add(slab)
    exporter.finish()
    return found
