"""Bring a prediction back: the output grid *is* the input grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.preprocess import Placement
from medseg.data.resample import argmax_resampled, resample_image


def restore_classes(logits_CIJK: NDArray[np.float32], placement: Placement) -> NDArray[np.uint8]:
    """Return the (I, J, K) class map on the scan's own grid; outside the kept box it is background."""
    classes = argmax_resampled(logits_CIJK, placement.box_shape, orders=placement.linear_orders)
    return _place(np.asarray(classes, np.uint8), placement, fill=0)


def restore_regions(
    logits_RIJK: NDArray[np.float32], placement: Placement, paints: Sequence[int]
) -> NDArray[np.uint8]:
    """Return the (I, J, K) class map that overlapping regions paint, on the scan's own grid.

    Args:
        logits_RIJK: One channel per region; above 0 (probability 0.5) a voxel lies in it.
        placement: The way back.
        paints: The class that each region paints; later ones on top.
    """
    classes = np.zeros(placement.box_shape, np.uint8)
    for logit_IJK, value in zip(logits_RIJK, paints, strict=True):
        classes[_resample_linear(logit_IJK[None], placement)[0] > 0] = value
    return _place(classes, placement, fill=0)


def restore_region_probabilities(
    logits_CIJK: NDArray[np.float32], placement: Placement
) -> NDArray[np.float32]:
    """Return (C, I, J, K) probabilities of overlapping regions on the scan's own grid; outside the box 0."""
    from scipy.special import expit

    probabilities = expit(_resample_linear(logits_CIJK, placement))
    return np.stack([_place(channel, placement, fill=0) for channel in probabilities])


def restore_probabilities(logits_CIJK: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """Return (C, I, J, K) probabilities on the scan's own grid; outside the box background is 1.

    Logits are interpolated linearly first, so that their argmax is the mask of `restore_classes`.
    """
    logits = _resample_linear(logits_CIJK, placement)
    logits -= logits.max(axis=0, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0, keepdims=True)
    restored = [_place(channel, placement, fill=float(index == 0)) for index, channel in enumerate(logits)]
    return np.stack(restored)


def restore_image(image_CIJK: NDArray[Any], placement: Placement) -> NDArray[np.float32]:
    """Return a preprocessed image on the scan's own grid, for display."""
    image = _resample_linear(image_CIJK.astype(np.float32), placement)
    return np.stack([_place(channel, placement, fill=float(channel.min())) for channel in image])


def _resample_linear(array_CIJK: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    if array_CIJK.shape[1:] == placement.box_shape:
        return array_CIJK.copy()
    return resample_image(array_CIJK, placement.box_shape, orders=placement.linear_orders)


def _place(box_IJK: NDArray[Any], placement: Placement, *, fill: float) -> NDArray[Any]:
    whole = np.full(placement.canonical.shape, fill, box_IJK.dtype)
    whole[tuple(slice(a, b) for a, b in zip(placement.start, placement.stop))] = box_IJK
    return placement.to_stored(whole)
