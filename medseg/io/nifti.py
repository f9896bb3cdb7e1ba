"""NIfTI-1 and NIfTI-2, strictly: a file is read once, verified to its last byte, or refused.

nibabel does not verify the gzip checksum and SimpleITK fills a truncated volume with zeros, so the bytes
are decompressed and checked here; nibabel knows the header's field layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import FormatError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.io.compression import DEFLATED, GZIP_MAGIC, PLAIN, Stream, compress_into
from medseg.io.format import Format
from medseg.io.grids import make_grid
from medseg.io.nifti_header import SIZE_1, Header, looks_like_header, not_nifti, read_header
from medseg.io.safety import MAX_EXPANSION, max_image_bytes, read_bytes
from medseg.io.voxels import check_finite

SUFFIXES = (".nii.gz", ".nii")
SLAB_BYTES = 1 << 22  # compressed at once
_HEAD_BYTES = 1 << 16
_TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "data_type", "db_name")
_MAX_DIM_1 = 32767  # dim is int16 in NIfTI-1


def sniff(head: bytes) -> bool:
    """Say whether a file starts like NIfTI, compressed or not."""
    try:
        return looks_like_header(bytes(_open_stream(head).take(4)))
    except FormatError:
        return False


def read(path: Path) -> Volume:
    """Read a NIfTI file.

    Args:
        path: .nii.gz or .nii; 2D, 3D, (i,j,k,c) or (i,j,k,1,c).

    Returns:
        (C, I, J, K) in the stored type where the header asks for no scaling, else float32.

    Raises:
        FormatError, GeometryError, DataError: See the list of codes in `medseg.io`.
    """
    data = read_bytes(path, "NII")
    stream = _open_stream(data)
    header, used = read_header(stream)
    _check_size(header, len(data), max_image_bytes())
    stream.skip(header.offset - used)
    stored = np.frombuffer(stream.take(header.voxel_bytes), header.dtype)
    stream.finish()
    array = stored.astype(header.dtype.newbyteorder("="), copy=False)
    array = _scale(array, header).reshape(header.dims, order="F")
    check_finite(array)
    array = array[None] if array.ndim == 3 else np.moveaxis(array, 3, 0)
    return Volume(array, header.geometry)


def read_voxel_bytes(path: Path) -> int:
    """Return the bytes of a voxel in memory, from the header."""
    header = _read_header_of(path)
    is_plain = header.slope == 1 and header.inter == 0
    return header.dtype.itemsize if is_plain else 4


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header; the voxels are not looked at."""
    return _read_header_of(path).geometry


def write(path: Path, volume: Volume, like: Path | None = None, *, slope: float = 1.0) -> None:
    """Write one .nii.gz file, byte for byte the same for the same input.

    Codes, both matrices, units and NIfTI version come from `like`; its free-text fields do not, since they
    may hold names.

    Args:
        path: Ends in .nii.gz.
        volume: (C, I, J, K); several channels become (i,j,k,c). float64 is stored as float32.
        like: A NIfTI file on the same grid, or None for scanner coordinates in NIfTI-1.
        slope: Stored as scl_slope; the voxels are not changed by it.

    Raises:
        FormatError: NII_SUFFIX, or NII_DATATYPE for a type that NIfTI does not have.
    """
    if not path.name.lower().endswith(".nii.gz"):
        raise FormatError("NIfTI is written compressed", hint="name the file .nii.gz", code="NII_SUFFIX")
    array = volume.array
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    head = make_head(volume.geometry, len(array), array.dtype, like, slope=slope)
    compress_into(path, _in_order(head, array))


def make_head(
    geometry: Geometry, channels: int, dtype: np.dtype[Any], like: Path | None = None, *, slope: float = 1.0
) -> bytes:
    """Return all bytes before the voxels; arguments as those of `write`."""
    fields = _make_fields(geometry, _read_header_of(like) if like else None)
    fields.set_data_shape(geometry.shape if channels == 1 else (*geometry.shape, channels))
    fields.set_data_dtype(dtype)
    fields["scl_slope"], fields["scl_inter"] = slope, 0
    fields["vox_offset"] = fields["sizeof_hdr"] + 4
    return bytes(fields.binaryblock) + bytes(4)


def _in_order(head: bytes, array: NDArray[Any]) -> Iterator[bytes | memoryview]:
    """Yield a file slab by slab: F order of (i, j, k, c) is C order of (c, k, j, i)."""
    yield head
    planes = array.transpose(0, 3, 2, 1)
    step = max(1, SLAB_BYTES // max(1, planes[0, :1].nbytes))
    for channel in planes:
        for start in range(0, len(channel), step):
            slab = np.ascontiguousarray(channel[start : start + step], array.dtype.newbyteorder("<"))
            yield slab.data.cast("B")


def _open_stream(data: bytes) -> Stream:
    if data[:2] == GZIP_MAGIC:
        return Stream(data, DEFLATED, "NII")
    if not looks_like_header(data):
        raise not_nifti()
    return Stream(data, PLAIN, "NII")


def _read_header_of(path: Path) -> Header:
    return read_header(_open_stream(read_bytes(path, "NII", _HEAD_BYTES)))[0]


def _check_size(header: Header, file_bytes: int, max_bytes: int) -> None:
    """Refuse what cannot be, before memory is asked for."""
    needed = header.offset + header.voxel_bytes
    if needed > max_bytes:
        raise FormatError(
            f"the header asks for {needed} bytes, more than {max_bytes}",
            hint="the header is damaged, or the image must be split, or MEDSEG_MAX_IMAGE_GB raised",
            code="NII_TOO_LARGE",
        )
    if needed > file_bytes * MAX_EXPANSION:
        raise FormatError(
            f"{file_bytes} bytes cannot hold the {needed} that the header asks for",
            hint="copy or export the file again; it is damaged or incomplete",
            code="NII_TRUNCATED",
        )


def _scale(array: NDArray[Any], header: Header) -> NDArray[Any]:
    """Apply slope and intercept; 8 and 16 bit integers are exact in float32, wider types go by float64."""
    if header.slope == 1 and header.inter == 0:
        return array
    wide = np.float32 if array.dtype.itemsize <= 2 else np.float64
    with np.errstate(all="ignore"):  # what overflows is found as voxels that are not finite
        scaled: NDArray[Any] = np.multiply(array, wide(header.slope), dtype=wide)
        np.add(scaled, wide(header.inter), out=scaled)
        return scaled.astype(np.float32, copy=False)


def _make_fields(geometry: Geometry, like: Header | None) -> Any:
    import nibabel as nib

    if like is None:
        fields = (nib.Nifti2Header if max(geometry.shape) > _MAX_DIM_1 else nib.Nifti1Header)()
        make_grid(geometry.shape, geometry.affine, "NII")
        fields.set_data_shape(geometry.shape)
        fields.set_sform(geometry.affine, code=1)
        fields.set_qform(geometry.affine, code=1)
        fields.set_xyzt_units("mm")
        return fields
    fields = (nib.Nifti1Header if like.fields["sizeof_hdr"] == SIZE_1 else nib.Nifti2Header)()
    fields.set_data_shape(geometry.shape)
    for name in ("qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z"):
        fields[name] = like.fields[name]
    for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        fields[name] = like.fields[name]
    fields["pixdim"][:4] = like.fields["pixdim"][:4]
    if like.fields["dim"][0] == 2 and fields["pixdim"][3] == 0:
        fields["pixdim"][3] = 1
    return fields


FORMAT = Format(sniff, read, write, read_geometry, SUFFIXES)
