"""NIfTI in and out, and the canonical axes: towards right, front, head.

Shape legend: C channels, (i, j, k) voxels as stored, (I, J, K) voxels on canonical axes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's code of the length unit
MATRICES = ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d")
KEPT = ("qform_code", "sform_code", "xyzt_units", "qoffset_x", "qoffset_y", "qoffset_z", *MATRICES)


class RefusedError(Exception):
    """A scan, or the folder, is not what it should be."""


def read_scan(files: Sequence[str]) -> tuple[Array, Array, Any]:
    """Return (C, i, j, k) voxels as stored, the (4, 4) affine in mm, and the header of the first file."""
    images = [nib.load(file) for file in files]
    affines = [read_affine(image.header) for image in images]
    voxels = [read_voxels(image) for image in images]
    if any(
        v.shape[1:] != voxels[0].shape[1:] or abs(a - affines[0]).max() > 0.1 for v, a in zip(voxels, affines)
    ):
        raise RefusedError("the channels lie on different grids")
    array = np.concatenate(voxels)
    if not np.isfinite(array).all():
        raise RefusedError("some voxels are NaN or infinite")
    return array, affines[0], images[0].header


def read_voxels(image: Any) -> Array:
    """Return (C, i, j, k); float32 where the header asks for scaling."""
    stored, slope, inter = np.asarray(image.dataobj.get_unscaled()), image.dataobj.slope, image.dataobj.inter
    if (slope, inter) != (1, 0):
        wide = np.float32 if stored.dtype.itemsize <= 2 else np.float64
        stored = (np.multiply(stored, wide(slope), dtype=wide) + wide(inter)).astype(np.float32)
    shape = (*stored.shape, 1, 1)[:3]
    return np.moveaxis(stored.reshape(*shape, -1), 3, 0)


def read_affine(header: Any) -> Array:
    """Return the sform, or else the qform, in mm."""
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        raise RefusedError("the header does not say how the voxels lie in space")
    affine: Array = header.get_sform() if header["sform_code"] > 0 else header.get_qform()
    affine[:3] *= MM_PER_UNIT[int(header["xyzt_units"]) & 7]
    return affine


def write_mask(path: Path, mask: Array, header: Any) -> None:
    """Write a mask with the codes, matrices and units of its scan; whole or not at all."""
    fields = type(header)()
    fields.set_data_shape(mask.shape)
    for name in KEPT:
        fields[name] = header[name]
    fields["pixdim"][:4] = header["pixdim"][:4]
    fields["pixdim"][3] = header["pixdim"][3] or 1  # a 2D image may have none
    fields.set_data_dtype(mask.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    nib.save(kind(mask, None, fields), part)
    part.replace(path)


def find_spacing(affine: Array) -> list[float]:
    """Return the voxel size in mm, rounded so that copies of one grid are one grid."""
    steps = [float(step) for step in np.linalg.norm(affine[:3, :3], axis=0)]
    return [round(step, 5 if step > 0.01 else 3 - math.floor(math.log10(step))) for step in steps]


class Canonical:
    """The way from stored axes to canonical ones and back."""

    def __init__(self, affine: Array) -> None:
        cosines = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
        world_of: dict[int, int] = {}
        for flat in np.argsort(-np.round(cosines, 6), axis=None, kind="stable"):
            world, index = divmod(int(flat), 3)
            if index not in world_of and world not in world_of.values():
                world_of[index] = world
        self.order = [int(n) for n in np.argsort([world_of[index] for index in range(3)])]
        self.flips = tuple(n for n, index in enumerate(self.order) if affine[world_of[index], index] < 0)
        self.affine = affine[:, [*self.order, 3]]

    def enter(self, array: Array) -> Array:
        """Bring (C, i, j, k) to (C, I, J, K)."""
        moved = array.transpose(0, *(1 + index for index in self.order))
        return np.flip(moved, tuple(1 + axis for axis in self.flips))

    def leave(self, array: Array) -> Array:
        """Bring (I, J, K) to (i, j, k)."""
        return np.ascontiguousarray(np.flip(array, self.flips).transpose(np.argsort(self.order)))
