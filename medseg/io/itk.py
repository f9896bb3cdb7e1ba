"""NRRD and MetaImage, decoded here; LPS coordinates become RAS+.

SimpleITK is not trusted with reading: of a compressed .mha without CompressedDataSize it returns noise
without an error, of a truncated file what is there. It writes, and is the judge in the tests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.core.errors import FormatError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.io import metaimage, nrrd, simpleitk
from medseg.io.format import Format
from medseg.io.grids import LPS_TO_RAS
from medseg.io.layout import Layout, decode
from medseg.io.safety import find_sibling, read_bytes
from medseg.io.voxels import check_finite

SUFFIXES = (".nrrd", ".mha", ".mhd")
_HEAD_BYTES = 1 << 16


def sniff(head: bytes) -> bool:
    """Say whether a file starts like NRRD or MetaImage."""
    return nrrd.is_nrrd(head) or metaimage.is_metaimage(head)


def read(path: Path) -> Volume:
    """Read a volume.

    Returns:
        (C, I, J, K) in the stored type; 2D has K = 1.

    Raises:
        FormatError, GeometryError, DataError: See the list of codes in `medseg.io`.
    """
    data = read_bytes(path, _prefix(path))
    layout = _read_layout(path, data)
    stored = memoryview(data)[layout.start :]
    if layout.data_name:
        stored = memoryview(read_bytes(find_sibling(path, layout.data_name), "MHA"))
    volume = decode(layout, stored)
    check_finite(volume.array)
    return volume


def list_files(path: Path) -> tuple[Path, ...]:
    """Return the header and, where the voxels lie in a file of their own, that file."""
    name = _read_layout(path, read_bytes(path, _prefix(path), _HEAD_BYTES)).data_name
    return (path, find_sibling(path, name)) if name else (path,)


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header; the voxels are not looked at."""
    return _read_layout(path, read_bytes(path, _prefix(path), _HEAD_BYTES)).geometry


def write(path: Path, volume: Volume, like: Path | None = None) -> None:
    """Write .nrrd or .mha, compressed.

    Args:
        path: Ends in .nrrd or .mha; .mhd would be two files.
        volume: (C, I, J, K); float64 is stored as float32.
        like: Not used: these formats hold one position.

    Raises:
        FormatError: ITK_WRITE, for .mhd and for a voxel type that the format lacks.
    """
    if path.suffix.lower() == ".mhd":
        raise FormatError(".mhd would be two files", hint="write .mha", code="ITK_WRITE")
    array = volume.array.astype(np.float32) if volume.array.dtype == np.float64 else volume.array
    simpleitk.encode(path, array, LPS_TO_RAS @ volume.geometry.affine)


def _read_layout(path: Path, data: bytes) -> Layout:
    if nrrd.is_nrrd(data) or path.suffix.lower() == ".nrrd":
        return nrrd.read_layout(data)
    return metaimage.read_layout(data)


def _prefix(path: Path) -> str:
    return "NRRD" if path.suffix.lower() == ".nrrd" else "MHA"


FORMAT = Format(sniff, read, write, read_geometry, SUFFIXES)
