"""What one mask alone tells of a structure: its size, parts and place, and what the image shows there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.metrics.area import measure_area

Box = tuple[slice, ...]
PERCENTILES = (5, 25, 50, 75, 95)
MANY = 65_536  # `find_objects` lists every value up to the largest

DEFINITIONS = {
    "volume_ml": "voxels times the volume of a voxel",
    "components": "voxels that touch by face, edge or corner are one",
    "box_i_mm, box_j_mm, box_k_mm": "bounding box along the axes of the image, from outer edge to outer edge",
    "surface_mm2": "Crofton's formula over 13 directions; null for a single slice",
    "centroid_r_mm, centroid_a_mm, centroid_s_mm": "mean position of the voxels' centres, towards right, "
    "anterior, superior; of a hollow structure it may lie outside",
    "intensity": "over the voxels of the label; sd with n - 1; percentiles interpolated linearly",
}

EMPTY: dict[str, Any] = {
    "voxels": 0, "volume_ml": 0.0, "components": 0, "largest_component_ml": 0.0,
    **dict.fromkeys(("box_i_mm", "box_j_mm", "box_k_mm", "surface_mm2")),
    **dict.fromkeys(("centroid_r_mm", "centroid_a_mm", "centroid_s_mm")),
}  # fmt: skip


def find_structures(labels_IJK: NDArray[Any]) -> Iterator[tuple[int, Box]]:
    """Yield each label value above 0 that occurs, and its bounding box."""
    from scipy.ndimage import find_objects

    values = None
    if labels_IJK.max(initial=0) >= MANY:
        values, places = np.unique(np.maximum(labels_IJK, 0), return_inverse=True)
        labels_IJK = places.reshape(labels_IJK.shape) + (values[0] > 0)
        values = values[values > 0]
    for index, box in enumerate(find_objects(labels_IJK)):
        if box is not None:
            yield (index + 1 if values is None else int(values[index])), box


def measure_structure(mask_IJK: NDArray[np.bool_], start: Sequence[int], grid: Geometry) -> dict[str, Any]:
    """Return the numbers of one structure, with the keys of `EMPTY`.

    Args:
        mask_IJK: The bounding box of the structure, at least one voxel of it true.
        start: (3,) index of the box's first voxel on the grid.
        grid: Of the whole image.
    """
    import cc3d

    numbers = cc3d.connected_components(mask_IJK.astype(np.uint8), connectivity=26)
    sizes = np.bincount(numbers.ravel())[1:]
    voxels, voxel_ml = int(sizes.sum()), grid.voxel_volume_mm3 / 1000
    inside = np.array([np.mean(axis) for axis in np.nonzero(mask_IJK)])
    centroid = grid.to_world(inside + np.asarray(start))
    box_mm = np.multiply(mask_IJK.shape, grid.spacing_mm)
    is_slice = 1 in grid.shape
    return {
        "voxels": voxels,
        "volume_ml": voxels * voxel_ml,
        "components": len(sizes),
        "largest_component_ml": int(sizes.max()) * voxel_ml,
        **{f"box_{axis}_mm": float(mm) for axis, mm in zip("ijk", box_mm, strict=True)},
        "surface_mm2": None if is_slice else measure_area(mask_IJK, grid.spacing_mm),
        **{f"centroid_{axis}_mm": float(mm) for axis, mm in zip("ras", centroid, strict=True)},
    }


def measure_intensities(values: NDArray[Any]) -> Mapping[str, float | None]:
    """Return mean, sd, extremes and percentiles of (N,) numbers; all None of none, no sd of one."""
    n = len(values)
    numbers = values.astype(np.float64)
    cuts = np.percentile(numbers, PERCENTILES).tolist() if n else [None] * len(PERCENTILES)
    return {
        "intensity_mean": float(numbers.mean()) if n else None,
        "intensity_sd": float(numbers.std(ddof=1)) if n > 1 else None,
        "intensity_min": float(numbers.min()) if n else None,
        **{
            "intensity_median" if share == 50 else f"intensity_p{share:02}": cut
            for share, cut in zip(PERCENTILES, cuts, strict=True)
        },
        "intensity_max": float(numbers.max()) if n else None,
    }
