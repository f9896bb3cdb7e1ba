"""What one out-of-fold case says, all that trust is learnt from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Witness:
    """What one out-of-fold case says.

    Args:
        part: Of the cross-validation; a patient is in one part only.
        patient: Whose case it is.
        sums: (L, sums) of `observer.Observer`.
        image: (P,) of `image.describe_image`.
        voxel_mm3: Of the preprocessed grid.
        dice: (L,) of the mask, NaN where neither mask holds the structure.
        volume_mm3: (L,) of the reference.
        logits, truth: (N, F) of `sample.Sampler`.
    """

    part: int
    patient: str
    sums: Float
    image: Float
    voxel_mm3: float
    dice: Float
    volume_mm3: Float
    logits: NDArray[np.float16]
    truth: NDArray[np.bool_]
