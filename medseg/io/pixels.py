"""PNG and TIFF pictures: index i is the row, j the column, K = 1, the affine is the identity.

One pixel is one millimetre by convention; resolution tags of pictures are rarely true. Structure and
checksums are verified here, SimpleITK decodes (Pillow reads 16 bit RGB as 8 bit without a word).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.core.errors import FormatError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.io import png, simpleitk, tiff
from medseg.io.format import Format
from medseg.io.safety import read_bytes
from medseg.io.voxels import check_finite

SUFFIXES = (".png", ".tif", ".tiff")


def sniff(head: bytes) -> bool:
    """Say whether a file starts like PNG or TIFF."""
    return head.startswith(png.SIGNATURE) or tiff.is_tiff(head)


def read(path: Path) -> Volume:
    """Read a picture.

    Returns:
        (C, I, J, 1): gray has C = 1, colour C = 3. An alpha channel is dropped where it is constant, since
        it says nothing then; else it is the fourth channel.

    Raises:
        FormatError: The file is damaged (PNG_*, TIFF_*) or of an unsupported layout.
        DataError: VOXELS_NOT_FINITE.
    """
    data = read_bytes(path, _prefix(path))
    divisor = 1
    if tiff.is_tiff(data) or _prefix(path) == "TIFF":
        tiff.check(data)
    else:
        divisor = png.check(data)
    array = simpleitk.decode_picture(path).transpose(2, 0, 1)[..., None]
    if len(array) == 4 and (array[3] == array[3].flat[0]).all():
        array = array[:3]
    array = np.ascontiguousarray(array if divisor == 1 else array // divisor)
    check_finite(array)
    return Volume(array, _make_grid(*array.shape[1:3]))


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header; the pixels are not looked at."""
    head = read_bytes(path, _prefix(path), png.HEADER_BYTES)
    if tiff.is_tiff(head) or _prefix(path) == "TIFF":
        return _make_grid(*tiff.read_size(read_bytes(path, "TIFF")))
    return _make_grid(*png.read_size(head)[:2])


def write(path: Path, volume: Volume, like: Path | None = None) -> None:
    """Write a PNG file.

    Args:
        path: Ends in .png.
        volume: (1 or 3, I, J, 1), uint8 or uint16.
        like: Not used: PNG holds no position.

    Raises:
        FormatError: PIXELS_WRITE, where PNG cannot hold it.
    """
    array = volume.array
    fits = array.shape[0] in (1, 3) and array.shape[3] == 1 and array.dtype in (np.uint8, np.uint16)
    if not fits or path.suffix.lower() != ".png":
        raise FormatError(
            f"a picture holds one slice of uint8 or uint16 as .png, not {array.dtype} {array.shape}",
            hint="write .nii.gz",
            code="PIXELS_WRITE",
        )
    path.write_bytes(png.encode(array[..., 0].transpose(1, 2, 0)))


def _prefix(path: Path) -> str:
    return "TIFF" if path.suffix.lower() in (".tif", ".tiff") else "PNG"


def _make_grid(rows: int, columns: int) -> Geometry:
    return Geometry.of_spacing((rows, columns, 1), (1.0, 1.0, 1.0))


FORMAT = Format(sniff, read, write, read_geometry, SUFFIXES)
