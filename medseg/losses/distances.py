"""Distances to the border of a structure, in voxels, and its connected components: what a GPU cannot give.

Labels are copied to the CPU for it, which waits for the device; the results carry no gradient. Distances are
in voxels of the label that a loss sees: one level of deep supervision, or a patch of the plan's grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Mask = NDArray[np.bool_]


def border_distances(inside_BN: Tensor, valid_BN: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the distance of each valid voxel's centre to the border of the structure.

    The border lies halfway between a voxel of the structure and one beside it, so the voxels next to it are
    at 0.5. Ignored voxels are on neither side: a border that touches only them is not known.

    Args:
        inside_BN: (B, N) bool.
        valid_BN: (B, N) bool.
        shape: (B, *spatial).

    Returns:
        (B, N) float32; 0 where ignored, and in samples that hold the structure nowhere or everywhere.
    """
    masks = [mask_BN.view(*shape).cpu().numpy() for mask_BN in (inside_BN, valid_BN)]
    found = [_measure_border(inside, valid) for inside, valid in zip(*masks, strict=True)]
    return torch.from_numpy(np.stack(found)).flatten(1).to(inside_BN.device)


def _measure_border(inside: Mask, valid: Mask) -> NDArray[np.float32]:
    from scipy.ndimage import distance_transform_edt

    within, beyond = inside & valid, ~inside & valid
    distance = np.zeros(inside.shape, np.float32)
    if not within.any() or not beyond.any():
        return distance
    distance[within] = distance_transform_edt(~beyond)[within] - 0.5
    distance[beyond] = distance_transform_edt(~within)[beyond] - 0.5
    return distance


def nearest_components(inside_BN: Tensor, shape: Sequence[int]) -> tuple[Tensor, int]:
    """Return which connected component of its sample each voxel is nearest to, and how many there are.

    The Voronoi cells of Jaus et al. 2024 (CC-Metrics). Voxels that share a corner are connected.

    Args:
        inside_BN: (B, N) bool.
        shape: (B, *spatial), 2D or 3D.

    Returns:
        (B, N) int64, numbered 0, 1, ... over the batch, -1 in samples without the structure; the count.
    """
    import cc3d
    from scipy.ndimage import distance_transform_edt

    cells, count = [], 0
    for inside in inside_BN.view(*shape).cpu().numpy():
        cell = np.full(inside.shape, -1, np.int64)
        if inside.any():
            connectivity = 8 if inside.ndim == 2 else 26
            numbers, n = cc3d.connected_components(inside, connectivity=connectivity, return_N=True)
            nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
            cell = numbers[tuple(nearest)].astype(np.int64) - 1 + count
            count += n
        cells.append(cell)
    return torch.from_numpy(np.stack(cells)).flatten(1).to(inside_BN.device), count
