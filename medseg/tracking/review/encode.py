"""Volumes as text in a page: 256 grey levels, differences along a row, deflate, base64.

A browser undoes it with `DecompressionStream`, which works from `file://` and in sandboxed frames.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
BINS = 4096  # of the histogram that levels are chosen from
EVEN = 0.5  # share of the levels that is spread evenly over the range; the rest follows the voxels
PERCENTILES = (0.05, 99.95)


def choose_levels(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return at most 256 rising grey levels for these values.

    They are the values themselves where there are so few. Else half of them follow the range and half the
    voxels, so that a CT keeps soft tissue apart (few HU) and still tells air from bone: an even step over
    4,000 HU is 16.
    """
    sample = values.ravel()[:: max(1, values.size // 1_000_000)]
    distinct = np.unique(values if values.size <= 4_000_000 else sample)
    if distinct.size <= LEVELS:
        return np.asarray(distinct, np.float64)
    low, high = np.percentile(sample, PERCENTILES).tolist()
    if high <= low:
        low, high = float(distinct[0]), float(distinct[-1])
    counts, edges = np.histogram(sample, BINS, (low, high))
    share = np.concatenate([[0.0], np.cumsum(counts) / max(1, counts.sum())])
    rise = EVEN * np.linspace(0, 1, BINS + 1) + (1 - EVEN) * share
    return np.asarray(np.interp(np.linspace(0, 1, LEVELS), rise, edges), np.float64)


def quantize(values: NDArray[np.float32], levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the index of the nearest level of each value."""
    middles = (levels[1:] + levels[:-1]) / 2
    return np.searchsorted(middles, values, side="right").astype(np.uint8)


def pack_grey(codes_IJK: NDArray[np.uint8]) -> str:
    """Return the deflated differences of neighbours along i, modulo 256: a fifth smaller than the codes."""
    differences = codes_IJK.copy()
    differences[1:] -= codes_IJK[:-1]
    return pack(differences)


def pack(array_IJK: NDArray[Any]) -> str:
    """Return bytes as base64 of a zlib stream; i runs fastest."""
    return base64.b64encode(zlib.compress(array_IJK.tobytes(order="F"), 9)).decode()


def unpack(text: str, shape: Sequence[int]) -> NDArray[np.uint8]:
    """Return what `pack` was given."""
    raw = zlib.decompress(base64.b64decode(text))
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F")


def unpack_grey(text: str, shape: Sequence[int]) -> NDArray[np.uint8]:
    """Return what `pack_grey` was given."""
    return np.cumsum(unpack(text, shape), axis=0, dtype=np.uint8)
