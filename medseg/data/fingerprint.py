"""The cohort in a few numbers: what the plan is decided from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medseg.data.checks import Record


@dataclass(frozen=True)
class Intensity:
    """Foreground intensities of one channel over the cohort, in stored units."""

    mean: float
    std: float
    p00_5: float
    p99_5: float
    p99_95: float


@dataclass(frozen=True)
class Fingerprint:
    """Medians over the usable cases of a cohort, on canonical axes.

    Args:
        n_cases: How many cases it was taken from.
        shape: (3,) median voxel counts of the non-zero box.
        spacing_mm: (3,) median spacing.
        fine_spacing_mm: (3,) 10th percentile of the spacing, for strongly anisotropic cohorts.
        class_share: Share of all voxels per class, background first.
        intensities: One per channel.
    """

    n_cases: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    fine_spacing_mm: tuple[float, float, float]
    class_share: tuple[float, ...]
    intensities: tuple[Intensity, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return asdict(self)

    def shape_at(self, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
        """Return the median shape in voxels of another spacing."""
        i, j, k = (round(n * own / new) for n, own, new in zip(self.shape, self.spacing_mm, spacing_mm))
        return i, j, k


def take_fingerprint(records: Sequence[Record]) -> Fingerprint:
    """Summarise usable records (at least one)."""
    spacings = np.array([record.spacing_mm for record in records])
    shapes = np.array([record.shape for record in records])
    voxels = np.sum([record.voxels for record in records], axis=0)
    i, j, k = np.median(shapes, axis=0).round().astype(int).tolist()
    channels = zip(*(record.intensities for record in records))
    return Fingerprint(
        n_cases=len(records),
        shape=(i, j, k),
        spacing_mm=_triple(np.median(spacings, axis=0)),
        fine_spacing_mm=_triple(np.percentile(spacings, 10, axis=0)),
        class_share=tuple(np.round(voxels / voxels.sum(), 8).tolist()),
        intensities=tuple(_summarise(np.concatenate([np.array(s) for s in samples])) for samples in channels),
    )


def _triple(values: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    i, j, k = np.round(values, 5).tolist()
    return i, j, k


def _summarise(values: np.ndarray[Any, Any]) -> Intensity:
    if not values.size:
        return Intensity(0.0, 1.0, 0.0, 1.0, 1.0)
    low, high, top = np.percentile(values, [0.5, 99.5, 99.95])
    numbers = (values.mean(), values.std() or 1.0, low, high, top)
    return Intensity(*(float(f"{number:.8g}") for number in numbers))  # a PET or ADC value may be tiny
