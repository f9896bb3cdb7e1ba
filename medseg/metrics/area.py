"""The area of a mask's surface, by Crofton's formula: how often do straight lines cross it?

Lines run through the voxel centres in the 13 directions to the 26 neighbours; each direction stands for the
part of the sphere that lies nearest to it. Lang, Ohser and Hilfer 2001, "On the analysis of spatial binary
images" (J. Microsc. 203); Legland, Kieu and Devaux 2007, "Computation of Minkowski measures" (Image Anal.
Stereol. 26). Counting voxel faces overestimates a smooth surface by a half, at any resolution. Here a ball
ten voxels wide is measured to 1 %, one on voxels three to five times longer than wide to 3 %; but a flat face
along the grid, for which 13 directions are too few, comes out an eighth to a fifth too small.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DIRECTIONS = tuple((i, j, k) for i in (0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) if (i, j, k) > (0, 0, 0))


def measure_area(mask_IJK: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    """Return the area of the surface in mm2; beyond the array is outside.

    S = 2 sum over directions d of w_d N_d V / |d|, with N_d crossings of all lines along d, V / |d| the part
    of a plane that one line stands for (V the volume of a voxel), w_d the direction's share of the sphere.

    Args:
        mask_IJK: (I, J, K).
        spacing_mm: (3,) at right angles.
    """
    padded = np.pad(mask_IJK, 1)
    total = 0.0
    for direction, weight in zip(DIRECTIONS, weigh_directions(spacing_mm), strict=True):
        start = tuple(slice(max(0, -step), min(0, -step) or None) for step in direction)
        end = tuple(slice(max(0, step), min(0, step) or None) for step in direction)
        crossings = int(np.count_nonzero(padded[start] != padded[end]))
        total += weight * crossings / float(np.linalg.norm(np.multiply(direction, spacing_mm)))
    return 2 * total * float(np.prod(spacing_mm))


@lru_cache(maxsize=64)
def weigh_directions(spacing_mm: tuple[float, float, float]) -> tuple[float, ...]:
    """Return (13,) the share of the sphere nearest to each direction or its opposite; they add up to 1."""
    from scipy.spatial import SphericalVoronoi

    steps = np.array(DIRECTIONS) * spacing_mm
    units = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    areas = SphericalVoronoi(np.concatenate([units, -units])).calculate_areas()
    halves: list[float] = (2 * areas[: len(units)] / areas.sum()).tolist()
    return tuple(halves)
