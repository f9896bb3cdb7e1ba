"""Bring a preprocessed image back to the scan's own grid, for display; masks come back by `export`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.preprocess import Placement
from medseg.data.resample import resample_image


def restore_image(image_CIJK: NDArray[Any], placement: Placement) -> NDArray[np.float32]:
    """Return a preprocessed image on the scan's own grid; outside the kept box it is as dark as inside."""
    image = image_CIJK.astype(np.float32)
    if image.shape[1:] != placement.box_shape:
        image = resample_image(image, placement.box_shape, orders=placement.linear_orders)
    return np.stack([_place(channel, placement) for channel in image])


def _place(box_IJK: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    whole = np.full(placement.canonical.shape, box_IJK.min(), box_IJK.dtype)
    whole[tuple(slice(a, b) for a, b in zip(placement.start, placement.stop))] = box_IJK
    return placement.to_stored(whole)
