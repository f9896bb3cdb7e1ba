"""nnU-Net's normalisations of intensities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Mask = NDArray[np.bool_] | None
EPS = 1e-8  # the smallest divisor


@dataclass(frozen=True)
class Scheme:
    """What is done to one channel.

    Args:
        name: A key of `SCHEMES`.
        is_masked: Only voxels of the non-zero mask are counted and changed, where the scheme heeds that.
        properties: Of the training set's foreground.
    """

    name: str
    is_masked: bool = False
    properties: Mapping[str, float] = field(default_factory=dict)


def normalize(image_CIJK: Float, schemes: tuple[Scheme, ...]) -> None:
    """Normalise every channel in place."""
    mask = find_mask(image_CIJK) if any(scheme.is_masked for scheme in schemes) else None
    for channel_IJK, scheme in zip(image_CIJK, schemes, strict=True):
        SCHEMES[scheme.name](channel_IJK, scheme, mask if scheme.is_masked else None)


def find_mask(image_CIJK: Float) -> NDArray[np.bool_]:
    """Return where any channel is not 0, without holes."""
    from scipy import ndimage  # slow to import, and most models do without

    return np.asarray(ndimage.binary_fill_holes((image_CIJK != 0).any(axis=0)), bool)


def _zscore(channel_IJK: Float, scheme: Scheme, mask: Mask) -> None:
    """Make mean 0 and standard deviation 1; what is outside the mask stays as it is."""
    seen = channel_IJK if mask is None else channel_IJK[mask]
    if not seen.size:
        return
    mean = np.float32(seen.mean(dtype=np.float64))
    scale = np.float32(max(float(seen.std(dtype=np.float64)), EPS))
    if mask is None:
        channel_IJK -= mean
        channel_IJK /= scale
    else:
        channel_IJK[mask] = (seen - mean) / scale


def _ct(channel_IJK: Float, scheme: Scheme, _: Mask) -> None:
    """Clip to the cohort's 0.5 and 99.5 percentiles, then its z-score."""
    known = scheme.properties
    np.clip(channel_IJK, known["percentile_00_5"], known["percentile_99_5"], out=channel_IJK)
    channel_IJK -= np.float32(known["mean"])
    channel_IJK /= np.float32(max(known["std"], EPS))


def _leave(channel_IJK: Float, scheme: Scheme, _: Mask) -> None:
    """Do nothing."""


def _rescale(channel_IJK: Float, scheme: Scheme, _: Mask) -> None:
    """Map the lowest value to 0 and the highest to 1."""
    channel_IJK -= channel_IJK.min()
    channel_IJK /= np.float32(max(float(channel_IJK.max()), EPS))


def _bytes(channel_IJK: Float, scheme: Scheme, _: Mask) -> None:
    """Map 0..255 to 0..1."""
    channel_IJK /= np.float32(255)


SCHEMES: dict[str, Callable[[Float, Scheme, Mask], None]] = {
    "ZScoreNormalization": _zscore,
    "CTNormalization": _ct,
    "NoNormalization": _leave,
    "RescaleTo01Normalization": _rescale,
    "RGBTo01Normalization": _bytes,
}
CT_PROPERTIES = ("percentile_00_5", "percentile_99_5", "mean", "std")
