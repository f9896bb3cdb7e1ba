"""One matrix per axis: how blur, bias fields and elastic fields are evaluated, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def multiply_axes(tensor_CIJK: Tensor, matrices: Sequence[NDArray[np.float64]]) -> Tensor:
    """Multiply each spatial axis by a matrix, the first axis first.

    A matrix product beats torch's convolution of a single channel and, with few columns, an interpolation.

    Args:
        tensor_CIJK: (C, I, J, K) float32.
        matrices: (I', I), (J', J), (K', K).

    Returns:
        (C, I', J', K') float32.
    """
    device = tensor_CIJK.device
    first, second, third = (
        torch.from_numpy(m.astype(np.float32)).to(device, non_blocking=True) for m in matrices
    )
    channels, _, *rest = tensor_CIJK.shape
    tensor = (first @ tensor_CIJK.flatten(2)).view(channels, len(first), *rest)
    return (second @ tensor) @ third.mT


def gaussian_matrix(length: int, sigma: float) -> NDArray[np.float64]:
    """Return (length, length): blur by `sigma` voxels, cut at 3 sigma, the border mirrored."""
    radius = int(3 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    reached = (np.arange(length)[:, None] + offsets) % (2 * length)
    mirrored = np.minimum(reached, 2 * length - 1 - reached)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], mirrored), weights / weights.sum())
    return matrix


def legendre_matrix(length: int, degree: int) -> NDArray[np.float64]:
    """Return (length, degree + 1): Legendre polynomials at evenly spread points of -1..1."""
    points = np.linspace(-1, 1, length) if length > 1 else np.zeros(1)
    return np.asarray(np.polynomial.legendre.legvander(points, degree), np.float64)


def bspline_matrix(points: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return (points, count): cubic B-splines centred on -1, 0, ..., count - 2.

    Points from 0 to count - 3 have four splines each, whose weights add up to 1. A single control point
    is constant.
    """
    if count == 1:
        return np.ones((len(points), 1))
    away = np.abs(points[:, None] - np.arange(-1, count - 1))
    near = 2 / 3 - away**2 + away**3 / 2
    return np.asarray(np.where(away < 1, near, np.maximum(2 - away, 0) ** 3 / 6))
