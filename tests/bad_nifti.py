"""Writes NIfTI files that must be refused, and the good files that they are made from.

`BAD_IMAGES` and `BAD_LABELS` map a name to a function that writes such a file to a given .nii.gz path.
Grid of the good files: 12 x 10 x 8 voxels of 1 x 1.5 x 3 mm; labels 0, 1, 2.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (12, 10, 8)
AFFINE = np.array([[1, 0, 0, -5], [0, 1.5, 0, 7], [0, 0, 3, -11], [0, 0, 0, 1]], dtype=float)


def make_image() -> np.ndarray:
    """Return (12, 10, 8) int16: noise of 0..99, and 500 where the label is 1, 900 where it is 2."""
    image = np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)
    image[make_label() == 1] += 500
    image[make_label() == 2] += 900
    return image


def make_label() -> np.ndarray:
    """Return (12, 10, 8) uint8 with two boxes of 27 and 12 voxels."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:5, 2:5, 2:5] = 1
    label[6:9, 5:7, 3:5] = 2
    return label


def make_bytes(array: np.ndarray, affine: np.ndarray = AFFINE, **fields: Any) -> bytes:
    """Return an uncompressed NIfTI-1 file; `fields` overwrite raw header fields at the very end."""
    return patch(nib.Nifti1Image(array, affine).to_bytes(), **fields)


def patch(data: bytes, **fields: Any) -> bytes:
    """Overwrite raw header fields of an uncompressed NIfTI-1 file."""
    header = nib.Nifti1Header(data[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + data[348:]


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, **fields: Any) -> Path:
    path.write_bytes(gzip.compress(make_bytes(array, affine, **fields), mtime=0))
    return path


def write_image(path: Path) -> Path:
    return write_nifti(path, make_image())


def write_label(path: Path) -> Path:
    return write_nifti(path, make_label())


def write_truncated(path: Path) -> Path:
    """Break the compressed stream off in the middle, as a full disk or a broken download does."""
    data = gzip.compress(make_bytes(make_image()))
    path.write_bytes(data[: len(data) // 2])
    return path


def write_wrong_crc(path: Path) -> Path:
    data = bytearray(gzip.compress(make_bytes(make_image())))
    data[-8] ^= 1  # the last 8 bytes are CRC-32 and length (RFC 1952)
    path.write_bytes(data)
    return path


def write_nan_block(path: Path) -> Path:
    """Write 8 NaN voxels into an otherwise good float image."""
    image = make_image().astype(np.float32)
    image[4:6, 4:6, 4:6] = np.nan
    return write_nifti(path, image)


def write_singular_affine(path: Path) -> Path:
    """Let two rows of the sform be equal; the qform is switched off."""
    return write_nifti(path, make_image(), qform_code=0, sform_code=1, srow_y=[1, 0, 0, -5])


def write_rgb(path: Path) -> Path:
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return write_nifti(path, colours)


def write_three_channels(path: Path) -> Path:
    """Write (12, 10, 8, 3): a good file, but neither 1 nor 2 channels."""
    return write_nifti(path, np.stack([make_image()] * 3, axis=-1))


def write_zero_bytes(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def write_text(path: Path) -> Path:
    path.write_text("patient,age\n" + "a,61\n" * 200)
    return path


def write_label_on_another_grid(path: Path) -> Path:
    """Shift a good label map by one voxel (1 mm) along the first axis."""
    affine = AFFINE.copy()
    affine[0, 3] += 1
    return write_nifti(path, make_label(), affine)


def write_label_outside_set(path: Path) -> Path:
    """Give one voxel the value 7."""
    label = make_label()
    label[0, 0, 0] = 7
    return write_nifti(path, label)


BAD_IMAGES: dict[str, Callable[[Path], Path]] = {
    "truncated": write_truncated,
    "wrong_crc": write_wrong_crc,
    "nan_block": write_nan_block,
    "singular_affine": write_singular_affine,
    "rgb": write_rgb,
    "three_channels": write_three_channels,
    "zero_bytes": write_zero_bytes,
    "text": write_text,
}
BAD_LABELS: dict[str, Callable[[Path], Path]] = {
    "label_on_another_grid": write_label_on_another_grid,
    "label_outside_set": write_label_outside_set,
}
IO_CODES = {
    "truncated": "NII_TRUNCATED",
    "wrong_crc": "NII_CRC",
    "nan_block": "VOXELS_NOT_FINITE",
    "singular_affine": "NII_AFFINE",
    "rgb": "NII_COLOUR",
    "zero_bytes": "NII_EMPTY",
    "text": "NII_NOT_NIFTI",
}
"""What `medseg.io` says; the other three files are well formed and wrong only for their data set."""
