"""Whether a written NIfTI file is the volume that was meant; read with nibabel alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tests.dicom_files import LPS_TO_RAS, Ramp, Truth

Array = NDArray[Any]
PLACE_MM = 0.02
"""How far a voxel may lie from where the pixel was: jitter and rounded headers, far below what is refused."""


def read(path: Path) -> tuple[Array, Array]:
    """Return (I, J, K) values and the (4, 4) affine to RAS+ millimetres."""
    image = nib.load(path)
    assert image.header["sform_code"] > 0 and image.header["qform_code"] > 0
    # nibabel trusts the sform; a reader that trusts the qform must see the same.
    assert np.allclose(image.get_qform(), image.affine, atol=1e-3)
    return np.asarray(image.dataobj).astype(np.float64), np.asarray(image.affine)


def points_lps(shape: Sequence[int], affine: Array) -> Array:
    """Return (I, J, K, 3) voxel centres."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    to_lps = LPS_TO_RAS @ affine
    return np.asarray(index @ to_lps[:3, :3].T + to_lps[:3, 3])


def off_ramp(array: Array, affine: Array, ramp: Ramp) -> Array:
    """Return how far each voxel's value lies from the ramp at its place."""
    return np.asarray(np.abs(array - ramp.at(points_lps(array.shape, affine))))


def why_not(array: Array, affine: Array, truth: Truth) -> str:
    """Say how a volume differs from what was meant, or return ""."""
    grid = truth.grid
    expected = np.concatenate([grid.points(k).reshape(-1, 3) for k in range(len(grid.at))])
    worst = off_ramp(array, affine, truth.ramp).max()
    if worst > truth.slack:
        return f"a voxel is {worst:.3g} off the ramp"
    if array.size != len(expected):
        return f"{array.shape} voxels of {len(expected)}"
    to_index = np.linalg.inv(LPS_TO_RAS @ affine)
    index = expected @ to_index[:3, :3].T + to_index[:3, 3]
    steps_mm = np.linalg.norm(affine[:3, :3], axis=0)
    apart = float((np.abs(index - np.rint(index)) * steps_mm).max())
    if apart > PLACE_MM:
        return f"voxels lie {apart:.3g} mm beside the pixels"
    places = np.unique(np.rint(index).astype(int), axis=0)
    if len(places) != len(expected) or places.min() < 0 or (places >= array.shape).any():
        return "voxels lie where no pixel was"
    return ""


def why_not_repaired(array: Array, affine: Array, truth: Truth) -> str:
    """Say how a resampled volume differs inside the field of view of its slices, or return ""."""
    linear = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(linear.T @ linear - np.eye(3)).max() > 1e-3:
        return "the axes are not at right angles"
    inside = is_inside(points_lps(array.shape, affine), truth)
    if np.count_nonzero(inside) < 0.4 * array.size:
        return f"{np.count_nonzero(inside)} of {array.size} voxels lie in the field of view"
    worst = off_ramp(array, affine, truth.ramp)[inside].max()
    if worst > truth.slack:
        return f"a voxel is {worst:.3g} off the ramp"
    return "" if _covers(array.shape, affine, truth) else "a part of the slices is cut off"


def is_inside(points: Array, truth: Truth) -> Array:
    """Say which points lie between the outermost pixel centres of the first and the last slice."""
    grid = truth.grid
    sheared = np.stack([np.array(grid.row), np.array(grid.column), grid.step], axis=1)
    index = (points - np.array(grid.origin_mm)) @ np.linalg.inv(sheared).T
    last = [(grid.columns - 1) * grid.pixel_mm[1], (grid.rows - 1) * grid.pixel_mm[0]]
    low, high = np.array([0.0, 0.0, min(grid.at)]), np.array([*last, max(grid.at)])
    return np.asarray(((index >= low - 1e-4) & (index <= high + 1e-4)).all(axis=-1))


def _covers(shape: Sequence[int], affine: Array, truth: Truth) -> bool:
    """Say whether every pixel lies inside the volume, or less than a voxel beyond its outermost centres."""
    grid = truth.grid
    pixels = np.concatenate([grid.points(k).reshape(-1, 3) for k in range(len(grid.at))])
    to_index = np.linalg.inv(LPS_TO_RAS @ affine)
    index = pixels @ to_index[:3, :3].T + to_index[:3, 3]
    return bool((index > -1).all() and (index < np.array(shape)).all())
