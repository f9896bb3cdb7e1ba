"""A bundle's preprocessing: MONAI's dictionary transforms that are known, restated as plain steps.

One difference is meant: `Spacingd` keeps the first voxel's centre, here grids cover the same box, edge to
edge: voxels are as large, and lie up to half a voxel beside where MONAI puts them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.core.volume import Axes, Volume, canonical_axes, grid_on_axes, to_axes
from medseg.data.preprocess import Placement, target_shape
from medseg.data.resample import resample_image
from medseg.inference.bundle.config import Tree, list_calls, read_literal, refuse

Float = NDArray[np.float32]
Change = Callable[[Float], Float]

SIDES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
IDLE = ("LoadImaged", "EnsureChannelFirstd", "EnsureTyped", "ToTensord", "CastToTyped", "Identityd")
ORDERS = {"bilinear": 1, "nearest": 0, 1: 1, 0: 0, 3: 3}
NEUTRAL = {"keys", "allow_missing_keys", "track_meta", "device", "dtype", "image_only", "padding_mode"}
NEUTRAL |= {"reader", "align_corners", "data_type", "channel_dim", "ensure_channel_first", "lazy", "labels"}


@dataclass(frozen=True)
class Spacing:
    """Resample to a voxel size; a missing third one keeps the scan's."""

    pixdim: tuple[float, ...]
    order: int

    def target_shape(self, grid: Geometry) -> tuple[int, int, int]:
        """Return the (I, J, K) wanted of a grid."""
        return target_shape(grid, (*self.pixdim, *grid.spacing_mm[len(self.pixdim) :]))


@dataclass(frozen=True)
class Preparation:
    """Preprocessing, in order.

    Args:
        axcodes: Sides that the axes run to, "RAS"; "" leaves them as stored.
        steps: Resampling, at most once, and changes of intensities.
    """

    axcodes: str
    steps: tuple[Spacing | Change, ...]

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size wanted; empty where it is the scan's."""
        return next((step.pixdim for step in self.steps if isinstance(step, Spacing)), ())

    def __call__(self, volume: Volume) -> tuple[Float, Placement]:
        """Return the (C, I, J, K) array that the network takes, and how to get back."""
        axes = self._find_axes(volume.geometry)
        array, working = to_axes(volume.array, volume.geometry, axes)
        image, shape = array.astype(np.float32), working.shape
        for step in self.steps:
            if not isinstance(step, Spacing):
                image = step(image)
                continue
            shape = step.target_shape(working)
            if shape != working.shape:
                image = resample_image(image, shape, orders=(step.order,) * 3)
        grid = working.resample(shape)
        placement = Placement(
            volume.geometry, working, (0, 0, 0), working.shape, grid, axes=axes, orders=(1, 1, 1)
        )
        return image, placement

    def grid_shape(self, geometry: Geometry) -> tuple[int, int, int]:
        """Return the (I, J, K) that a scan will have."""
        working = grid_on_axes(geometry, self._find_axes(geometry))
        spacing = next((step for step in self.steps if isinstance(step, Spacing)), None)
        return working.shape if spacing is None else spacing.target_shape(working)

    def _find_axes(self, geometry: Geometry) -> Axes:
        if not self.axcodes:
            return (0, 1), (1, 1), (2, 1)
        canonical = canonical_axes(geometry)
        return tuple(
            (canonical[world][0], canonical[world][1] * sign)
            for world, sign in (SIDES[letter] for letter in self.axcodes)
        )


def read_preparation(tree: Tree, transforms: Any) -> Preparation:
    """Return what a list of transforms does to the image.

    Args:
        tree: The configuration that references look in.
        transforms: A `Compose`, or its list.

    Raises:
        CheckpointError: BUNDLE_UNSUPPORTED, with the transform or the option that is not known.
    """
    axcodes = ""
    steps: list[Spacing | Change] = []
    for name, entry in list_calls(tree, transforms, "preprocessing", IDLE):
        if name not in (*READERS, "Orientationd"):
            raise refuse(f"the transform `{name}`")
        given = {key: value for key, value in entry.items() if key not in NEUTRAL and key[0] != "_"}
        options = {key: read_literal(tree, value, f"{name}.{key}") for key, value in given.items()}
        if name == "Orientationd":
            if any(isinstance(step, Spacing) for step in steps):
                raise refuse("Orientationd after Spacingd")
            axcodes = _read_axcodes(options)
        else:
            steps.append(_read_step(name, options))
    if sum(isinstance(step, Spacing) for step in steps) > 1:
        raise refuse("several Spacingd")
    return Preparation(axcodes, tuple(steps))


def _read_axcodes(options: Mapping[str, Any]) -> str:
    axcodes = options.get("axcodes")
    worlds = (
        {SIDES[letter][0] for letter in axcodes if letter in SIDES} if isinstance(axcodes, str) else set()
    )
    if set(options) != {"axcodes"} or len(worlds) != 3 or len(str(axcodes)) != 3:
        raise refuse(f"Orientationd with {dict(options)}")
    return str(axcodes)


def _read_step(name: str, options: dict[str, Any]) -> Spacing | Change:
    defaults, read = READERS[name]
    if unknown := set(options) - set(defaults):
        raise refuse(f"the option `{min(unknown)}` of {name}")
    try:
        return read(**{**defaults, **options})
    except (TypeError, ValueError) as error:
        raise refuse(f"{name} with {options}") from error


def _read_spacing(*, pixdim: Any, mode: Any) -> Spacing:
    sizes = [pixdim] * 3 if isinstance(pixdim, (int, float)) else pixdim
    kind = mode[0] if isinstance(mode, Sequence) and not isinstance(mode, str) else mode
    if kind not in ORDERS or not 2 <= len(sizes) <= 3 or min(sizes) <= 0:
        raise ValueError("no voxel size, or an unknown interpolation")
    return Spacing(tuple(float(size) for size in sizes), ORDERS[kind])


def _read_range(*, a_min: float, a_max: float, b_min: float, b_max: float, clip: bool) -> Change:
    if a_min == a_max:
        raise ValueError("the range is empty")
    low, high = min(b_min, b_max), max(b_min, b_max)

    def change(image_CIJK: Float) -> Float:
        scaled = (image_CIJK - np.float32(a_min)) * np.float32((b_max - b_min) / (a_max - a_min))
        scaled += np.float32(b_min)
        return np.clip(scaled, low, high) if clip else scaled

    return change


def _read_scale(*, minv: float, maxv: float, channel_wise: bool) -> Change:
    def change(image_CIJK: Float) -> Float:
        parts = image_CIJK if channel_wise else image_CIJK[np.newaxis]
        out = np.stack([_stretch(part, minv, maxv) for part in parts])
        return np.asarray(out if channel_wise else out[0], np.float32)

    return change


def _stretch(part: Float, low: float, high: float) -> Float:
    first, last = float(part.min()), float(part.max())
    if first == last:
        return np.asarray(part * low, np.float32)  # MONAI, `rescale_array`
    return np.asarray((part - first) / (last - first) * (high - low) + low, np.float32)


def _read_normalize(*, subtrahend: Any, divisor: Any, nonzero: bool, channel_wise: bool) -> Change:
    if subtrahend is not None or divisor is not None:
        raise ValueError("only the image's own mean and deviation")

    def change(image_CIJK: Float) -> Float:
        out = image_CIJK.copy()
        for part in out if channel_wise else [out]:
            mask = part != 0 if nonzero else np.ones(part.shape, bool)
            seen = part[mask]
            if seen.size:
                deviation = float(seen.std(dtype=np.float64))
                part[mask] = (seen - np.float32(seen.mean(dtype=np.float64))) / np.float32(deviation or 1)
        return out

    return change


READERS: dict[str, tuple[dict[str, Any], Callable[..., Spacing | Change]]] = {
    "Spacingd": ({"pixdim": None, "mode": "bilinear"}, _read_spacing),
    "ScaleIntensityRanged": (
        {"a_min": None, "a_max": None, "b_min": None, "b_max": None, "clip": False},
        _read_range,
    ),
    "ScaleIntensityd": ({"minv": 0.0, "maxv": 1.0, "channel_wise": False}, _read_scale),
    "NormalizeIntensityd": (
        {"subtrahend": None, "divisor": None, "nonzero": False, "channel_wise": False},
        _read_normalize,
    ),
}
