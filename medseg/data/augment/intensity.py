"""Changes of a patch's values: the draw, as plain numbers, and what it says, done by torch operations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg.data.augment.separable import gaussian_matrix, legendre_matrix, multiply_axes
from medseg.data.settings import Augment

SPATIAL = (1, 2, 3)
BIAS_DEGREE = 3  # of the polynomials of a bias field (Van Leemput et al. 1999 use the fourth)


@dataclass(frozen=True)
class IntensityDraw:
    """Every change in the order in which it is done; a default is no change.

    Args:
        bias: (20,) coefficients of the log field, of products of Legendre polynomials of total degree
            up to 3 in the order of `bias_degrees`.
        noise_sigma, noise_seed: Normal noise.
        blur_sigma: Voxels.
        brightness, contrast: Factors.
        low_resolution: Share of the voxels per axis that are kept.
        gamma_inverted, gamma: Exponents.
    """

    bias: tuple[float, ...] = ()
    noise_sigma: float = 0.0
    noise_seed: int = 0
    blur_sigma: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    low_resolution: float = 1.0
    gamma_inverted: float = 1.0
    gamma: float = 1.0


def draw_intensity(rng: np.random.Generator, settings: Augment) -> IntensityDraw:
    """Draw bias field, noise, blur, brightness, contrast, low resolution and gamma."""

    def draw(probability: float, limits: tuple[float, float], otherwise: float) -> float:
        return float(rng.uniform(*limits)) if rng.random() < probability else otherwise

    return IntensityDraw(
        bias=_draw_bias(rng, settings) if rng.random() < settings.bias_field_p else (),
        noise_sigma=draw(settings.noise_p, settings.noise_variance, 0.0) ** 0.5,
        noise_seed=int(rng.integers(2**31)),
        blur_sigma=draw(settings.blur_p, settings.blur_sigma, 0.0),
        brightness=draw(settings.brightness_p, settings.brightness_range, 1.0),
        contrast=draw(settings.contrast_p, settings.contrast_range, 1.0),
        low_resolution=draw(settings.low_resolution_p, settings.low_resolution_zoom, 1.0),
        gamma_inverted=draw(settings.gamma_inverted_p, settings.gamma_range, 1.0),
        gamma=draw(settings.gamma_p, settings.gamma_range, 1.0),
    )


def bias_degrees() -> list[tuple[int, int, int]]:
    """Return the degrees per axis of a bias field's polynomials, all but the constant."""
    limits = range(BIAS_DEGREE + 1)
    return [(i, j, k) for i in limits for j in limits for k in limits if 0 < i + j + k <= BIAS_DEGREE]


def _draw_bias(rng: np.random.Generator, settings: Augment) -> tuple[float, ...]:
    """Draw coefficients whose sizes add up to the strength: no polynomial exceeds 1, so no log field does."""
    strength = rng.uniform(*settings.bias_field_strength)
    shares = rng.normal(size=len(bias_degrees()))
    return tuple((shares / np.abs(shares).sum() * strength).tolist())


def apply_intensity(image_CIJK: Tensor, draw: IntensityDraw) -> Tensor:
    """Return a changed (C, I, J, K) float32 image on its own device; all channels change alike.

    Noise comes from the device's own generator: a GPU gives other noise than a CPU for the same seed.
    """
    image = image_CIJK
    if draw.bias:
        image = _apply_bias(image, draw.bias)
    if draw.noise_sigma:
        generator = torch.Generator(image.device).manual_seed(draw.noise_seed)
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        image = image + noise * draw.noise_sigma
    if draw.blur_sigma:
        image = _blur(image, draw.blur_sigma)
    if draw.brightness != 1:
        image = image * draw.brightness
    if draw.contrast != 1:
        image = _change_contrast(image, draw.contrast)
    if draw.low_resolution != 1:
        image = _lower_resolution(image, draw.low_resolution)
    if draw.gamma_inverted != 1:
        image = -_change_gamma(-image, draw.gamma_inverted)
    if draw.gamma != 1:
        image = _change_gamma(image, draw.gamma)
    return image


def _apply_bias(image: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Multiply what lies above each channel's darkest voxel by exp(polynomial), as a coil's field does.

    Measured from the darkest voxel, since normalised images have no zero of their own.
    """
    control = torch.zeros((1, *[BIAS_DEGREE + 1] * 3), device=image.device)
    control[0][tuple(zip(*bias_degrees()))] = torch.tensor(coefficients, device=image.device)
    log_field = multiply_axes(control, [legendre_matrix(edge, BIAS_DEGREE) for edge in image.shape[1:]])
    low = image.amin(SPATIAL, keepdim=True)
    return (image - low) * log_field.exp() + low


def _blur(image: Tensor, sigma: float) -> Tensor:
    return multiply_axes(image, [gaussian_matrix(edge, sigma) for edge in image.shape[1:]])


def _change_contrast(image: Tensor, factor: float) -> Tensor:
    mean = image.mean(SPATIAL, keepdim=True)
    low, high = image.amin(SPATIAL, keepdim=True), image.amax(SPATIAL, keepdim=True)
    return ((image - mean) * factor + mean).clamp(low, high)


def _lower_resolution(image: Tensor, zoom: float) -> Tensor:
    """Sample down (nearest) and up again (linear)."""
    shape = image.shape[1:]
    small = [max(1, round(edge * zoom)) for edge in shape]
    coarse = functional.interpolate(image[None], size=small, mode="nearest-exact")
    return functional.interpolate(coarse, size=shape, mode="trilinear")[0]


def _change_gamma(image: Tensor, gamma: float) -> Tensor:
    """Raise the range-scaled image to a power; mean and deviation stay as they were."""
    mean, deviation = image.mean(SPATIAL, keepdim=True), _deviation(image)
    low = image.amin(SPATIAL, keepdim=True)
    span = (image.amax(SPATIAL, keepdim=True) - low).clamp(min=1e-7)
    curved = ((image - low) / span) ** gamma * span + low
    spread = deviation / _deviation(curved).clamp(min=1e-7)
    return (curved - curved.mean(SPATIAL, keepdim=True)) * spread + mean


def _deviation(image: Tensor) -> Tensor:
    """Return the standard deviation of each channel, in a tenth of the time of torch.std on a CPU."""
    away = image - image.mean(SPATIAL, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(away, dim=SPATIAL, keepdim=True)
    return norm / math.sqrt(image[0].numel())
