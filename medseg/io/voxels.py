"""Checks and types of voxel values, the same for every format."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import DataError, FormatError
from medseg.core.volume import Labels, Volume

WHOLE_NUMBER_TOLERANCE = 1e-3
"""Label maps stored as scaled 16-bit integers come back this close to whole numbers (up to label 130);
soft masks and interpolated label maps do not."""


def check_finite(array: NDArray[Any]) -> None:
    """Refuse NaN and infinity.

    Raises:
        DataError: VOXELS_NOT_FINITE, with how many there are.
    """
    if not np.issubdtype(array.dtype, np.floating):
        return
    finite = np.isfinite(array)
    if not finite.all():
        count = array.size - int(np.count_nonzero(finite))
        raise DataError(
            f"{count} of {array.size} voxels are NaN or infinite",
            hint="find out which step made them; medseg does not guess values",
            code="VOXELS_NOT_FINITE",
        )


def smallest_integer(low: int, high: int) -> np.dtype[Any]:
    """Return the smallest integer type that holds `low` to `high`, unsigned where `low` >= 0."""
    kind = "u" if low >= 0 else "i"
    for size in (1, 2, 4, 8):
        dtype = np.dtype(f"{kind}{size}")
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    raise DataError(
        f"label values {low} to {high} fit no integer type",
        hint="renumber the labels",
        code="LABEL_RANGE",
    )


def shrink(array: NDArray[Any]) -> NDArray[Any]:
    """Return integers in the smallest type that holds them."""
    return array.astype(smallest_integer(int(array.min()), int(array.max())), copy=False)


def to_labels(volume: Volume) -> Labels:
    """Read an image of one channel as a label map.

    Channels that are all equal (a gray mask stored in colour) count as one. Whole numbers stored as
    floats become the smallest integers that hold them.

    Raises:
        FormatError: LABEL_CHANNELS, or LABEL_NOT_INTEGER with how many voxels are not whole numbers.
        DataError: LABEL_RANGE, beyond 64 bits.
    """
    array = volume.array[0]
    if any(not np.array_equal(array, other) for other in volume.array[1:]):
        raise FormatError(
            f"a label map has one channel, not {len(volume.array)} different ones",
            hint="store one label number per voxel",
            code="LABEL_CHANNELS",
        )
    if np.issubdtype(array.dtype, np.integer):
        return Labels(array, volume.geometry)
    whole = np.rint(array)
    odd = int(np.count_nonzero(np.abs(array - whole) > WHOLE_NUMBER_TOLERANCE))
    if odd:
        raise FormatError(
            f"{odd} of {array.size} label values are not whole numbers ({array.min():g} to {array.max():g})",
            hint="give a label map, not probabilities; resample labels with nearest neighbour",
            code="LABEL_NOT_INTEGER",
        )
    return Labels(whole.astype(smallest_integer(int(whole.min()), int(whole.max()))), volume.geometry)
