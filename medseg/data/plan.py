"""Decide how a cohort is prepared and trained on; every decision comes with its reason.

The plan is data: it is printed, stored with the run and inside the model, and nothing later decides
again. The rules follow nnU-Net (Isensee et al. 2021, suppl. note 2) with two changes: axes are
canonical (R, A, S), so the plan does not depend on storage order, and the patch is sized for the
device at hand, a CPU included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from medseg.core.errors import DataError
from medseg.data.fingerprint import Fingerprint
from medseg.data.lateral import choose_mirror_axes
from medseg.data.settings import Data, Grid

ANISOTROPIC = 3.0  # spacing ratio above which the coarse axis is treated on its own
MIN_EDGE = 4  # voxels an axis keeps at the coarsest level, as in nnU-Net
MAX_LEVELS = 6
# First and most channels. cuda: nnU-Net's. cpu: a seventh of its work at full resolution.
FEATURES = {"cpu": (12, {2: 128, 3: 128}), "cuda": (32, {2: 512, 3: 320})}
# Patch voxels: 32x48x32 trains a sample in about 0.2 CPU-s; 128^3 at batch 2 needs about 8 GB.
CPU_VOXELS = {2: 256 * 256, 3: 48**3}
GPU_VOXELS_PER_GB = {2: 12 * 512 * 512 / 8, 3: 2 * 128**3 / 8}
GPU_MAX_VOXELS = {2: 512 * 512, 3: 160**3}
# float32 on a CPU: torch leaves oneDNN for a single sample with C*D*H <= 20480 (`use_mkldnn` in its
# Convolution.cpp; measured with torch 2.13: 12 against 3 ms, 57 against 5.5 ms); two samples never meet it.
SLOW_BATCH = "; at batch 1 torch uses a slow conv3d, 4 to 10 times the time of a sample: 2 is faster"

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Scale:
    """How large to make what the grid leaves free, where memory is measured instead of estimated."""

    patch_voxels: int  # at most
    batch_size: int
    width: int  # channels at full resolution


@dataclass(frozen=True)
class Normalization:
    """What is done to one channel: clip to (low, high), then subtract and divide.

    A None shift or scale is the image's own mean or standard deviation (per-image z-score).
    """

    kind: str
    low: float | None = None
    high: float | None = None
    shift: float | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Plan:
    """All decisions of a run. Axes are canonical; in 2D the patch has one voxel along the last."""

    dims: int
    spacing_mm: tuple[float, float, float]
    patch: Triple
    batch_size: int
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    features: tuple[int, ...]  # channels per level, unless the model's options say otherwise
    normalization: tuple[Normalization, ...]
    mirror_axes: tuple[int, ...]
    rotate_axes: tuple[int, ...]  # axes to rotate around
    rotate_degrees: float
    reasons: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict, the content of plan.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from plan.json.

        Raises:
            DataError: It lacks an entry, or has one that this version does not know.
        """
        names = {field.name for field in fields(cls)}
        if differing := names ^ set(tree):
            raise DataError(
                f"plan.json does not fit this version: {', '.join(sorted(differing))}",
                hint="plan again in a new folder, or use the version that wrote it",
                code="PLAN_INVALID",
            )
        values = {key: _freeze(value) for key, value in tree.items() if key != "reasons"}
        values["normalization"] = tuple(Normalization(**entry) for entry in tree["normalization"])
        return cls(**values, reasons=dict(tree["reasons"]))


def make_plan(
    fingerprint: Fingerprint,
    data: Data,
    grid: Grid,
    *,
    device: str,
    memory_gb: float,
    rotate_degrees: float | None,
    scale: Scale | None = None,
) -> Plan:
    """Decide everything, honouring what `grid` fixes.

    Args:
        fingerprint: Of the usable cases.
        data: Channels with their kind of normalisation.
        grid: What the pipeline or the user fixed.
        device: "cpu" or "cuda".
        memory_gb: Memory to plan for.
        rotate_degrees: Largest rotation, or None for the rule.
        scale: Of patch, batch and width; None: by the constants above.
    """
    why: dict[str, str] = {}
    dims = grid.dims or (2 if fingerprint.shape[2] == 1 else 3)
    why["dims"] = _because(grid.dims, f"median depth is {fingerprint.shape[2]} voxels")
    spacing = grid.spacing_mm or _choose_spacing(fingerprint, dims, why)
    if grid.spacing_mm:
        why["spacing_mm"] = "fixed by the pipeline"
    shape = np.array(fingerprint.shape_at(spacing))
    budget = scale.patch_voxels if scale else _voxel_budget(dims, device, memory_gb)
    patch = grid.patch or _choose_patch(shape, spacing, dims, budget)
    if dims == 2:
        patch = (patch[0], patch[1], 1)
    why["patch"] = _because(
        grid.patch, f"median shape {_times(shape)} in at most {int(budget)} voxels ({device})"
    )
    strides, kernels = choose_topology(patch, spacing)
    why["strides"] = f"halve each axis while it keeps {MIN_EDGE} voxels, coarse axes later"
    width = scale.width if scale else FEATURES[device][0]
    why["features"] = f"{width} channels, doubled a level: what a {device} trains in time"
    batch = grid.batch_size or (scale.batch_size if scale else _choose_batch(dims, device, budget, patch))
    why["batch_size"] = _because(
        grid.batch_size, "batch 1 hits torch's slow conv3d; more costs time on a CPU"
    )
    if device == "cpu" and dims == 3 and batch == 1:
        why["batch_size"] += SLOW_BATCH
    names = [data.labels[value] for value in sorted(data.labels)]
    mirror_axes, why["mirror_axes"] = choose_mirror_axes(grid.mirror_axes, dims, names)
    axes, degrees, why["rotate_degrees"] = _choose_rotation(patch, dims, rotate_degrees)
    kinds = {name: channel.normalize for name, channel in data.channels.items()}
    why["normalization"] = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
    return Plan(
        dims=dims,
        spacing_mm=spacing,
        patch=patch,
        batch_size=batch,
        strides=strides,
        kernels=kernels,
        features=_choose_features(device, dims, len(strides), width),
        normalization=_choose_normalization(fingerprint, data),
        mirror_axes=mirror_axes,
        rotate_axes=axes,
        rotate_degrees=degrees,
        reasons=why,
    )


def _because(fixed: object, rule: str) -> str:
    return "fixed by the pipeline" if fixed else rule


def _times(values: Any) -> str:
    return "x".join(str(int(value)) for value in values)


def _choose_spacing(fingerprint: Fingerprint, dims: int, why: dict[str, str]) -> tuple[float, float, float]:
    spacing = list(fingerprint.spacing_mm)
    why["spacing_mm"] = "median of the cohort"
    worst = int(np.argmax(spacing))
    others = [spacing[axis] for axis in range(3) if axis != worst]
    if dims == 3 and spacing[worst] / max(others) > ANISOTROPIC:
        # nnU-Net: the 10th percentile keeps fine slices, but never finer than in plane.
        spacing[worst] = max(fingerprint.fine_spacing_mm[worst], max(others))
        why["spacing_mm"] += f"; axis {worst} is over {ANISOTROPIC:g} times coarser: its 10th percentile"
    return spacing[0], spacing[1], spacing[2]


def _voxel_budget(dims: int, device: str, memory_gb: float) -> float:
    if device == "cpu":
        return CPU_VOXELS[dims]
    return min(GPU_VOXELS_PER_GB[dims] * memory_gb / 2, GPU_MAX_VOXELS[dims])


def _choose_patch(
    shape: np.ndarray[Any, Any], spacing: tuple[float, ...], dims: int, budget: float
) -> Triple:
    """Start from a cube in mm, limited by the median shape; shrink the relatively largest axis."""
    edge_mm = (budget * float(np.prod(spacing[:dims]))) ** (1 / dims) * 2
    patch = np.minimum(np.ceil(edge_mm / np.array(spacing)), shape).astype(int)[:dims]
    multiple = np.array([_multiple(int(edge)) for edge in patch])
    patch = np.maximum(-(-patch // multiple) * multiple, multiple)
    while np.prod(patch) > budget and (patch > 16).any():
        axis = int(np.argmax(np.where(patch > 16, patch * np.array(spacing[:dims]), -1)))
        step = _multiple(int(patch[axis]))
        patch[axis] -= step if patch[axis] % step == 0 else patch[axis] % step
    i, j, k = [*patch.tolist(), 1][:3]
    return i, j, k


def _multiple(edge: int) -> int:
    """Return the largest power of two that leaves at least MIN_EDGE voxels after division.

    It is what the network divides the edge by, so that no level is padded.
    """
    multiple = 1
    while edge / (2 * multiple) >= MIN_EDGE and multiple < 2 ** (MAX_LEVELS - 1):
        multiple *= 2
    return multiple


def choose_topology(
    patch: Triple, spacing: tuple[float, ...]
) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """Return strides and kernels per level, level 0 first (nnU-Net's rule).

    An axis is halved while it is at least twice MIN_EDGE long and not more than twice as coarse as
    the finest axis that can still be halved; its kernel is 3 once its spacing is within a factor two of
    the finest axis, 1 before.
    """
    size, step = np.array(patch), np.array(spacing, dtype=float)
    real = size > 1
    strides: list[Triple] = [(1, 1, 1)]
    kernel = np.ones(3, int)
    kernels = []
    while True:
        finest = step[real].min() if real.any() else 1.0
        kernel = np.where(real & ((step / finest < 2) | (kernel == 3)), 3, 1)
        kernels.append(_int_triple(kernel))
        can = real & (size >= 2 * MIN_EDGE)
        if not can.any() or len(strides) == MAX_LEVELS:
            return tuple(strides), tuple(kernels)
        halve = can & (step / step[can].min() < 2)
        strides.append(_int_triple(np.where(halve, 2, 1)))
        size, step = np.where(halve, -(-size // 2), size), np.where(halve, step * 2, step)


def _choose_features(device: str, dims: int, levels: int, width: int) -> tuple[int, ...]:
    first, most = FEATURES[device]
    return tuple(min(width * 2**level, most[dims] * width // first) for level in range(levels))


def _int_triple(values: np.ndarray[Any, Any]) -> Triple:
    i, j, k = (int(value) for value in values)
    return i, j, k


def _choose_batch(dims: int, device: str, budget: float, patch: Triple) -> int:
    if device == "cpu":
        return 8 if dims == 2 else 2
    return int(np.clip(2 * budget / np.prod(patch), 2, 64))


def _choose_rotation(patch: Triple, dims: int, degrees: float | None) -> tuple[tuple[int, ...], float, str]:
    """Rotate around every axis, or only in plane where the patch is flat (nnU-Net: ratio > 3)."""
    if dims == 2:
        return (2,), 180.0 if degrees is None else degrees, "2D: in plane"
    shortest = int(np.argmin(patch))
    if max(patch) / patch[shortest] > ANISOTROPIC:
        return (shortest,), 180.0 if degrees is None else degrees, "flat patch: in plane only"
    return (0, 1, 2), 30.0 if degrees is None else degrees, "isotropic patch: around all axes"


def _choose_normalization(fingerprint: Fingerprint, data: Data) -> tuple[Normalization, ...]:
    chosen = []
    for channel, stats in zip(data.channels.values(), fingerprint.intensities, strict=True):
        if channel.normalize == "ct":
            chosen.append(Normalization("ct", stats.p00_5, stats.p99_5, stats.mean, stats.std))
        elif channel.normalize == "pet":
            chosen.append(Normalization("pet", 0.0, stats.p99_95, 0.0, stats.std))
        elif channel.normalize == "fixed" and channel.window is not None:
            low, high = channel.window
            chosen.append(Normalization("fixed", low, high, low, high - low))
        else:
            chosen.append(Normalization(channel.normalize, shift=0.0, scale=1.0))
        if channel.normalize == "zscore":
            chosen[-1] = Normalization("zscore")
    return tuple(chosen)


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value
