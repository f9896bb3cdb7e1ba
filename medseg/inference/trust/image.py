"""What an input looks like, in numbers that corruption moves: geometry, intensities, noise, layout.

Taken of the preprocessed array, which the network sees, and its placement; nothing is read again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.preprocess import Placement

QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # percent
VOXELS = 1 << 20  # looked at per channel; of larger images every second, third, ... plane along i
TINY = 1e-3  # added before logarithms, in units of the normalised image

GEOMETRY = (
    *(f"voxel size along {axis}" for axis in "ijk"),
    *(f"field of view along {axis}" for axis in "ijk"),
    "share of the scan that is not empty",
)
CHANNEL = (
    *(f"{percent} % quantile of intensity" for percent in QUANTILES),
    "spread of intensity",
    "skewness of intensity",
    "share of voxels at the lowest or highest value",
    *(f"noise along {axis}" for axis in "ijk"),
    *(f"intensity in the middle along {axis}" for axis in "ijk"),
)


def name_features(channels: Sequence[str]) -> list[str]:
    """Return the names of `describe_image`, in words."""
    of = [f" of {channel}" for channel in channels] if len(channels) > 1 else [""]
    return [*GEOMETRY, *(name + channel for channel in of for name in CHANNEL)]


def describe_image(image_CIJK: NDArray[Any], placement: Placement) -> NDArray[np.float64]:
    """Return (P,) numbers of a preprocessed image; lengths, spreads and noise as logarithms."""
    spacing = placement.canonical.spacing_mm
    extent = [size * step for size, step in zip(placement.box_shape, spacing)]
    kept = math.prod(placement.box_shape) / math.prod(placement.canonical.shape)
    numbers = [*(math.log(step) for step in spacing), *(math.log(size) for size in extent), kept]
    for channel_IJK in image_CIJK:
        step = max(1, -(-channel_IJK.size // VOXELS))
        numbers += _describe_channel(np.asarray(channel_IJK[::step], np.float32), thin=step == 1)
    return np.array(numbers)


def _describe_channel(channel_IJK: NDArray[np.float32], *, thin: bool) -> list[float]:
    """Describe one channel; `thin` says whether all planes along i are there."""
    values = channel_IJK.ravel()
    quantiles = np.percentile(values, QUANTILES).tolist()
    mean, sd = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    skewness = float(np.mean(((values - mean) / max(sd, TINY)) ** 3, dtype=np.float64))
    ends = float(np.mean((values == values.min()) | (values == values.max())))
    noise = [_measure_noise(channel_IJK, axis) if axis or thin else None for axis in range(3)]
    known = [value for value in noise if value is not None]
    filled = [sum(known) / len(known) if known else 0.0 if value is None else value for value in noise]
    middle = [_compare_middle(channel_IJK, axis, sd) for axis in range(3)]
    return [*quantiles, math.log(sd + TINY), skewness, ends, *filled, *middle]


def _measure_noise(channel_IJK: NDArray[np.float32], axis: int) -> float | None:
    """Return the log of the noise SD: MAD of second differences / (0.6745 sqrt(6)).

    Second differences of white noise have variance 1 + 4 + 1 = 6, and of smooth anatomy are small;
    the median does not see edges (as Immerkaer 1996 in 2D). None along an axis of fewer than 3 voxels.
    """
    if channel_IJK.shape[axis] < 3:
        return None
    second = np.diff(channel_IJK, 2, axis)
    return math.log(float(np.median(np.abs(second))) / (0.6745 * math.sqrt(6)) + TINY)


def _compare_middle(channel_IJK: NDArray[np.float32], axis: int, sd: float) -> float:
    """Return how much brighter the middle half of an axis is than the rest, in SD; 0 of a short axis."""
    n = channel_IJK.shape[axis]
    if n < 4:
        return 0.0
    means = np.moveaxis(channel_IJK, axis, 0).reshape(n, -1).mean(axis=1, dtype=np.float64)
    is_middle = np.zeros(n, bool)
    is_middle[n // 4 : n - n // 4] = True
    return float(means[is_middle].mean() - means[~is_middle].mean()) / max(sd, TINY)
