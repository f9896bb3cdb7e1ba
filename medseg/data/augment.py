"""Random changes to a training patch: first a draw that can be printed and replayed, then applied.

All spatial changes (crop, flip, rotation, scale) are one affine map from patch voxels to case voxels,
applied in one resampling: image linear, label nearest, on the same points. MONAI's chain resamples
once per transform, and its lazy mode corrupts labels (Project-MONAI/MONAI#6850).
Probabilities and ranges are nnU-Net's (Isensee et al. 2021, suppl. note 2).

Shape legend: C channels, (I, J, K) patch voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medseg.data.plan import Plan
from medseg.data.settings import Augment


@dataclass(frozen=True)
class SpatialDraw:
    """Patch voxel p maps to case voxel `matrix @ (p - middle) + centre`, middle = (patch - 1) / 2.

    Args:
        centre: (3,) case point at the patch's middle; between two voxels where the patch's edge is even.
        matrix: (3, 3) rotation, scale and flips, in voxels of the case.
    """

    centre: NDArray[np.float64]
    matrix: NDArray[np.float64]

    @property
    def is_plain(self) -> bool:
        """Whether no value has to be interpolated: flips at most."""
        return bool(np.array_equal(np.abs(self.matrix), np.eye(3)))


def draw_spatial(
    rng: np.random.Generator, centre: Sequence[int] | NDArray[np.int64], plan: Plan, settings: Augment
) -> SpatialDraw:
    """Draw flips, a rotation and a scale of the patch that spans `centre - patch // 2` and on.

    Angles are drawn in world space and brought to voxels with the plan's spacing, so that a rotation
    stays a rotation on anisotropic grids.
    """
    matrix = np.eye(3)
    if rng.random() < settings.rotate_p:
        limit = np.deg2rad(plan.rotate_degrees)
        for axis in plan.rotate_axes:
            matrix = matrix @ _rotation(axis, rng.uniform(-limit, limit))
    if rng.random() < settings.scale_p:
        zoom = rng.uniform(*settings.scale_range)
        matrix = matrix @ np.diag([1 / zoom if edge > 1 else 1.0 for edge in plan.patch])
    for axis in plan.mirror_axes:
        if rng.random() < 0.5:
            matrix[:, axis] *= -1
    spacing = np.array(plan.spacing_mm)
    edges = np.array(plan.patch)
    middle = np.asarray(centre) - edges // 2 + (edges - 1) / 2
    return SpatialDraw(middle, matrix * spacing[None, :] / spacing[:, None])


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    a, b = (other for other in range(3) if other != axis)
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def apply_spatial(
    image: Any, label: Any, draw: SpatialDraw, patch: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Cut a patch out of a case in one resampling, reading only the box that it touches.

    Args:
        image: (C, I, J, K), sliceable like numpy.
        label: (I, J, K), sliceable like numpy.
        draw: Where and how.
        patch: (3,) voxels.

    Returns:
        (C, *patch) float32 and (*patch) uint8; outside the case both are 0 (background).
    """
    edges = np.array(patch)
    middle = (edges - 1) / 2
    corners = np.array(np.meshgrid(*[(0, edge - 1) for edge in edges])).reshape(3, -1).T
    reached = (corners - middle) @ draw.matrix.T + draw.centre
    start = np.floor(reached.min(axis=0)).astype(int)
    stop = np.ceil(reached.max(axis=0)).astype(int) + 1
    pixels = _read_box(image, start, stop).astype(np.float32)
    classes = _read_box(label, start, stop)
    if draw.is_plain:
        flips = tuple(axis for axis in range(3) if draw.matrix[axis, axis] < 0)
        return np.flip(pixels, tuple(axis + 1 for axis in flips)).copy(), np.flip(classes, flips).copy()
    points = _sampling_points(draw, patch, middle, start, stop)
    warped = functional.grid_sample(torch.from_numpy(pixels)[None], points, align_corners=False)
    mask = torch.from_numpy(classes.astype(np.float32))[None, None]
    nearest = functional.grid_sample(mask, points, mode="nearest", align_corners=False)
    return warped[0].numpy(), nearest[0, 0].numpy().astype(np.uint8)


def _sampling_points(
    draw: SpatialDraw, patch: Sequence[int], middle: NDArray[Any], start: NDArray[Any], stop: NDArray[Any]
) -> Tensor:
    """Return the (1, *patch, 3) grid for grid_sample: normalised box coordinates, last axis first."""
    size = torch.from_numpy((stop - start).astype(np.float32))
    matrix = torch.from_numpy(draw.matrix.astype(np.float32))
    shift = torch.from_numpy((draw.centre - draw.matrix @ middle - start).astype(np.float32))
    steps = [torch.arange(edge, dtype=torch.float32) for edge in patch]
    # Per axis one product, broadcast: three adds a voxel instead of a matrix product with a meshgrid.
    voxel = sum(
        (
            steps[axis].view([-1 if a == axis else 1 for a in range(3)] + [1]) * matrix[:, axis]
            for axis in range(3)
        ),
        start=shift,
    )
    return ((2 * voxel + 1) / size - 1).flip(-1)[None]


def _read_box(array: Any, start: NDArray[Any], stop: NDArray[Any]) -> NDArray[Any]:
    """Read `array[..., start:stop]`, filling what lies outside with 0."""
    shape = np.array(array.shape[-3:])
    low, high = np.clip(start, 0, shape), np.clip(stop, 0, shape)
    lead = (slice(None),) * (len(array.shape) - 3)
    inside = np.asarray(array[(*lead, *(slice(int(a), int(b)) for a, b in zip(low, high)))])
    if (low == start).all() and (high == stop).all():
        return inside
    box = np.zeros((*array.shape[:-3], *(stop - start)), inside.dtype)
    box[(*lead, *(slice(int(a), int(b)) for a, b in zip(low - start, high - start)))] = inside
    return box


def augment_intensity(
    rng: np.random.Generator, image: NDArray[np.float32], settings: Augment
) -> NDArray[np.float32]:
    """Apply noise, blur, brightness, contrast, low resolution and gamma, each with its probability.

    Args:
        rng: The only source of chance.
        image: (C, I, J, K), changed in place where possible.
        settings: Probabilities and ranges.
    """
    if rng.random() < settings.noise_p:
        sigma = np.sqrt(rng.uniform(*settings.noise_variance))
        image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(sigma)
    if rng.random() < settings.blur_p:
        image = _blur(image, rng.uniform(*settings.blur_sigma))
    if rng.random() < settings.brightness_p:
        image *= np.float32(rng.uniform(*settings.brightness_range))
    if rng.random() < settings.contrast_p:
        image = _change_contrast(image, rng.uniform(*settings.contrast_range))
    if rng.random() < settings.low_resolution_p:
        image = _lower_resolution(image, rng.uniform(*settings.low_resolution_zoom))
    for probability, sign in ((settings.gamma_inverted_p, -1), (settings.gamma_p, 1)):
        if rng.random() < probability:
            image = sign * _change_gamma(sign * image, rng.uniform(*settings.gamma_range))
    return np.ascontiguousarray(image, dtype=np.float32)


def _blur(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    sigmas = [0.0] + [sigma if edge > 1 else 0.0 for edge in image.shape[1:]]
    blurred: NDArray[np.float32] = gaussian_filter(image, sigmas, truncate=3.0)
    return blurred


def _change_contrast(image: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    axes = (1, 2, 3)
    mean = image.mean(axis=axes, keepdims=True)
    low, high = image.min(axis=axes, keepdims=True), image.max(axis=axes, keepdims=True)
    return np.asarray(np.clip((image - mean) * np.float32(factor) + mean, low, high))


def _lower_resolution(image: NDArray[np.float32], zoom: float) -> NDArray[np.float32]:
    """Sample down (nearest) and up again (linear)."""
    shape = image.shape[1:]
    small = [max(1, round(edge * zoom)) for edge in shape]
    tensor = functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(image))[None], size=small, mode="nearest-exact"
    )
    return functional.interpolate(tensor, size=shape, mode="trilinear")[0].numpy()


def _change_gamma(image: NDArray[np.float32], gamma: float) -> NDArray[np.float32]:
    """Raise the range-scaled image to a power; mean and deviation stay as they were."""
    axes = (1, 2, 3)
    mean, std = image.mean(axis=axes, keepdims=True), image.std(axis=axes, keepdims=True)
    low = image.min(axis=axes, keepdims=True)
    span = np.maximum(image.max(axis=axes, keepdims=True) - low, 1e-7)
    curved = np.power((image - low) / span, np.float32(gamma)) * span + low
    spread = np.maximum(curved.std(axis=axes, keepdims=True), 1e-7)
    return np.asarray((curved - curved.mean(axis=axes, keepdims=True)) / spread * std + mean)
