"""Dense conditional random field: neighbours in space and intensity are drawn to one label.

Krähenbühl and Koltun 2011, "Efficient inference in fully connected CRFs with Gaussian edge potentials": the
energy of a labelling is -log p of each voxel, and for each pair of voxels with different labels

    smooth_weight    * exp(-|distance|^2 / 2 smooth_sigma_mm^2) / Z
  + bilateral_weight * exp(-|distance|^2 / 2 bilateral_sigma_mm^2 - |intensities|^2 / 2 sigma_intensity^2) / Z

with Z so that the spatial weights around a voxel sum to 1. Their permutohedral lattice approximates kernels
without an end; here kernels end at `truncate` sigma and are then exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.errors import ConfigError, DataError
from medseg.core.geometry import Geometry
from medseg.inference.refine.mean_field import Coupling, relax
from medseg.inference.refine.window import Kernel, make_window


@torch.no_grad()
def crf(
    probabilities_CIJK: Tensor,
    image_CIJK: Tensor,
    geometry: Geometry,
    *,
    smooth_weight: float = 1.0,
    smooth_sigma_mm: float = 1.5,
    bilateral_weight: float = 2.0,
    bilateral_sigma_mm: float = 3.0,
    sigma_intensity: float | Sequence[float] = 0.5,
    compatibility: Sequence[Sequence[float]] | None = None,
    iterations: int = 5,
    tolerance: float = 1e-3,
    truncate: float = 2.5,
    band_mm: float | None = 5.0,
    certainty: float = 0.99,
    max_neighbours: int = 512,
    max_pairs: float = 1e10,
) -> Tensor:
    """Return probabilities after mean-field updates of a dense CRF.

    Time is (1 + iterations) passes over pairs (voxels that take part x neighbours), about 5 ns a pair on one
    core. Memory is at most 30 bytes + 4 bytes x (4 classes + 3 channels) per voxel of the image, less where
    the box around the voxels that take part is small, 32 bytes x classes for each of these, and 32 MiB.

    Args:
        probabilities_CIJK: (C, I, J, K) float32, summing to 1 over C; K = 1 in 2D.
        image_CIJK: (channels, I, J, K) float32, as the network saw it: after z-scoring a unit is about the
            standard deviation of tissue.
        geometry: The grid of both; distances are millimetres, pixels for pictures.
        smooth_weight: Nats that a voxel pays where all its neighbours have another label; 0: no such kernel.
        smooth_sigma_mm: Of the smoothness kernel.
        bilateral_weight: As `smooth_weight`, where neighbours have the voxel's own intensity.
        bilateral_sigma_mm: Of the bilateral kernel.
        sigma_intensity: Of the bilateral kernel; one number, or one per channel.
        compatibility: (C, C) factors for pairs of labels, symmetric, 0 on the diagonal; None is Potts: 1 for
            any two labels.
        iterations: At most so many updates.
        tolerance: Updates end once no probability would move by more.
        truncate: Kernels end at so many sigma; a kernel that ends before the next voxel does nothing.
        band_mm: Voxels within so many millimetres, along each axis, of a border between labels take part; all
            others keep their probabilities, but act on their neighbours. None: all take part.
        certainty: Voxels whose highest probability is lower take part too.
        max_neighbours: Per kernel; more are thinned out evenly (`list_offsets`).
        max_pairs: More pairs of a voxel and a neighbour are refused; `infer` then keeps the mask unrefined.

    Raises:
        ConfigError: CRF_OPTION, an impossible option.
        DataError: CRF_TOO_LARGE, more than `max_pairs`.
    """
    sigmas = [sigma_intensity] if isinstance(sigma_intensity, int | float) else [*sigma_intensity]
    _check_positive(smooth_sigma_mm, bilateral_sigma_mm, truncate, max_neighbours, *sigmas)
    if len(sigmas) not in (1, len(image_CIJK)):
        raise ConfigError(
            f"{len(sigmas)} values of sigma_intensity for {len(image_CIJK)} channels",
            hint="give one for all, or one per channel",
            code="CRF_OPTION",
        )
    matrix = _read_compatibility(compatibility, len(probabilities_CIJK)).to(probabilities_CIJK.device)
    kernels = [Kernel(smooth_weight, smooth_sigma_mm), Kernel(bilateral_weight, bilateral_sigma_mm)]
    window = make_window(geometry, kernels, truncate, max_neighbours)
    result = probabilities_CIJK.clone()
    active = find_active(probabilities_CIJK, geometry, band_mm, certainty)
    count = int(active.sum())
    if not count or not len(window.offsets):
        return result
    if count * len(window.offsets) > max_pairs:
        raise DataError(
            f"a CRF of {count} voxels x {len(window.offsets)} neighbours is more than {max_pairs:.3g} pairs",
            hint="a smaller band_mm or max_neighbours, or a larger max_pairs and patience",
            code="CRF_TOO_LARGE",
        )
    scaled = image_CIJK / image_CIJK.new_tensor(sigmas).view(-1, 1, 1, 1)
    coupling = Coupling(scaled, active, window)
    relaxed = relax(
        probabilities_CIJK[:, active].T.contiguous(),
        coupling.gather(coupling.tabulate(probabilities_CIJK)) @ matrix,
        lambda move_NC: coupling.gather(coupling.place(move_NC)) @ matrix,
        iterations=iterations,
        tolerance=tolerance,
    )
    result[:, active] = relaxed.probabilities.T
    return result


def find_active(
    probabilities_CIJK: Tensor, geometry: Geometry, band_mm: float | None, certainty: float
) -> Tensor:
    """Return (I, J, K) bool: voxels that are uncertain, or near a border between labels."""
    highest, labels_IJK = probabilities_CIJK.max(dim=0)
    if band_mm is None:
        return torch.ones_like(labels_IJK, dtype=torch.bool)
    border = torch.zeros_like(highest)
    for axis, size in enumerate(labels_IJK.shape):
        differs = labels_IJK.diff(dim=axis) != 0
        for start in (0, 1):
            border.narrow(axis, start, size - 1)[differs] = 1
    for axis, spacing_mm in enumerate(geometry.spacing_mm):
        reach = min(floor(band_mm / spacing_mm * (1 + 1e-9)), border.shape[axis] - 1)
        kernel, pad = [1, 1, 1], [0, 0, 0]
        kernel[axis], pad[axis] = 2 * reach + 1, reach
        border = functional.max_pool3d(border[None], kernel, stride=1, padding=pad)[0]
    return (border > 0) | (highest < certainty)


def _read_compatibility(values: Sequence[Sequence[float]] | None, classes: int) -> Tensor:
    if values is None:
        return 1 - torch.eye(classes)
    sizes = {len(values), *map(len, values)}
    matrix = torch.tensor(values, dtype=torch.float32) if len(sizes) == 1 else torch.empty(0)
    is_usable = matrix.shape == (classes, classes) and bool((matrix >= 0).all())
    if not is_usable or not matrix.equal(matrix.T) or bool(matrix.diagonal().any()):
        raise ConfigError(
            "compatibility is not a symmetric matrix of numbers >= 0 with zeros on its diagonal, "
            f"{classes} rows of {classes}",
            hint="one row per class, background first; leave it out for 1 between any two labels",
            code="CRF_OPTION",
        )
    return matrix


def _check_positive(*values: float) -> None:
    if not all(value > 0 for value in values):
        raise ConfigError(
            f"a sigma, truncate or max_neighbours of the CRF is not above 0: {min(values):g}",
            hint="a weight of 0 leaves a kernel out",
            code="CRF_OPTION",
        )
