"""The NIfTI header under our own checks: what the voxels are, where they are, and whether to believe it.

Sources: nifti1.h and nifti2.h (nifti.nimh.nih.gov); "nifti1_io.c" is the reference implementation.
nibabel provides the field layout; every decision is made here.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from medseg.core.errors import FormatError, GeometryError
from medseg.core.geometry import Affine, Geometry
from medseg.io.compression import Stream
from medseg.io.grids import make_grid

SIZE_1, SIZE_2 = 348, 540  # sizeof_hdr; the value also tells the version and the byte order
FORMS_TOLERANCE_MM = 0.1

_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_COLOUR = (128, 2304)  # RGB24, RGBA32
_COMPLEX = (32, 1792, 2048)
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown (taken as mm), metre, mm, micron


class Header(NamedTuple):
    """What a NIfTI header says, after all checks.

    Args:
        dims: Stored axis lengths without trailing ones beyond the third: (I, J, K) or (I, J, K, C).
        dtype: Of the stored voxels, with byte order.
        slope: With `inter`: value = stored * slope + inter.
        inter: See `slope`.
        offset: First voxel byte.
        geometry: In millimetres.
        fields: nibabel's header object, for copying.
    """

    dims: tuple[int, ...]
    dtype: np.dtype[Any]
    slope: float
    inter: float
    offset: int
    geometry: Geometry
    fields: Any

    @property
    def voxel_bytes(self) -> int:
        """Bytes that the voxels take."""
        return int(np.prod(self.dims, dtype=object)) * self.dtype.itemsize


def read_header(stream: Stream) -> tuple[Header, int]:
    """Read and check the header at the start of a stream.

    Returns:
        The header, and how many bytes it took from the stream.

    Raises:
        FormatError, GeometryError: See the list of codes in `medseg.io`.
    """
    fields, size = _read_fields(stream)
    dims = _read_dims(fields)
    slope, inter = _read_scaling(fields)
    with np.errstate(all="ignore"):  # numbers beyond float64 are found as not finite
        geometry = _read_geometry(fields, dims[:3])
    return Header(dims, _read_dtype(fields), slope, inter, _read_offset(fields, size), geometry, fields), size


def _read_fields(stream: Stream) -> tuple[Any, int]:
    import nibabel as nib

    block = bytes(stream.take(SIZE_1))
    order = "<" if _says_size(block, "little") else ">" if _says_size(block, "big") else ""
    if order and block[:4] in (SIZE_1.to_bytes(4, "little"), SIZE_1.to_bytes(4, "big")):
        if block[344:348] == b"ni1\0":
            raise FormatError(
                "the header belongs to a separate .img file", hint="save as one .nii.gz file", code="NII_PAIR"
            )
        if block[344:348] == b"n+1\0":
            return nib.Nifti1Header(block, order, check=False), SIZE_1
    elif order and block[4:8] == b"n+2\0":
        block += bytes(stream.take(SIZE_2 - SIZE_1))
        return nib.Nifti2Header(block, order, check=False), SIZE_2
    raise not_nifti()


def looks_like_header(start: bytes) -> bool:
    """Say whether the first four bytes are a NIfTI or Analyze header's own size."""
    return _says_size(start, "little") or _says_size(start, "big")


def _says_size(start: bytes, order: Literal["little", "big"]) -> bool:
    return int.from_bytes(start[:4], order) in (SIZE_1, SIZE_2)


def _read_dims(fields: Any) -> tuple[int, ...]:
    count, *dims = (int(n) for n in fields["dim"])
    if not 1 <= count <= 7 or any(n < 1 for n in dims[:count]):
        raise FormatError(
            f"impossible image dimensions {tuple(dims[: max(min(count, 7), 0)])} (count {count})",
            hint="the header is damaged; export the file again",
            code="NII_HEADER",
        )
    shape = dims[:count] + [1] * (7 - count)
    channels = [n for n in shape[3:] if n > 1]
    if count == 1 or len(channels) > 1 or max(shape[5:]) > 1:
        raise FormatError(
            f"dimensions {tuple(dims[:count])} are not one image with channels",
            hint="give 2D, 3D, or 3D plus one channel axis: (i,j,k,c) or (i,j,k,1,c)",
            code="NII_DIMS",
        )
    return (*shape[:3], *channels)


def _read_dtype(fields: Any) -> np.dtype[Any]:
    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    if code in _COLOUR:
        raise FormatError(
            "the voxels are RGB colours", hint="export the scan itself, not a screenshot", code="NII_COLOUR"
        )
    if code in _COMPLEX:
        raise FormatError(
            "the voxels are complex numbers", hint="save the magnitude image", code="NII_COMPLEX"
        )
    if code not in _DTYPES:
        raise FormatError(
            f"data type code {code} is not supported", hint="save as int16 or float32", code="NII_DATATYPE"
        )
    dtype = np.dtype(_DTYPES[code]).newbyteorder(fields.endianness)
    if bits != dtype.itemsize * 8:
        raise FormatError(
            f"the header says {bits} bits a voxel, and a type of {dtype.itemsize * 8} bits",
            hint="the header is damaged; export the file again",
            code="NII_HEADER",
        )
    return dtype


def _read_scaling(fields: Any) -> tuple[float, float]:
    """Slope 0 means no scaling (nifti1.h); so does NaN in nifti1_io.c and nibabel, which writes it."""
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite([slope, inter]).all():
        raise FormatError(
            f"the value scaling is impossible (slope {slope}, intercept {inter})",
            hint="the header is damaged; export the file again",
            code="NII_SCALING",
        )
    return slope, inter


def _read_offset(fields: Any, size: int) -> int:
    offset = float(fields["vox_offset"])
    # Four bytes after the header say whether extensions follow (nifti1.h), so voxels come later still.
    if not np.isfinite(offset) or offset != int(offset) or not size + 4 <= offset < 2**31:
        raise FormatError(
            f"the voxels cannot start at byte {offset:g}",
            hint="the header is damaged; export the file again",
            code="NII_OFFSET",
        )
    return int(offset)


def _read_geometry(fields: Any, shape: tuple[int, ...]) -> Geometry:
    unit = int(fields["xyzt_units"]) & 7
    if unit not in _MM_PER_UNIT:
        raise FormatError(
            f"length unit code {unit} is unknown", hint="export the file again", code="NII_HEADER"
        )
    spacing = np.array(fields["pixdim"][1:4], dtype=np.float64)
    if int(fields["dim"][0]) == 2 and spacing[2] == 0:
        spacing[2] = 1.0  # a 2D image has no third step
    if not np.isfinite(spacing).all() or spacing.min() <= 0:
        raise GeometryError(
            f"impossible voxel size {' '.join(f'{s:g}' for s in spacing)}",
            hint="the header is damaged; export the file again",
            code="NII_PIXDIM",
        )
    forms = []
    mm = _MM_PER_UNIT[unit]
    if fields["sform_code"] > 0:
        forms.append(make_grid(shape, _sform(fields, mm), "NII"))
    if fields["qform_code"] > 0:
        forms.append(make_grid(shape, _qform(fields, spacing * mm, mm), "NII"))
    if not forms:
        raise GeometryError(
            "the header says nowhere how the voxels lie in space (qform and sform codes are 0)",
            hint="set the sform from the original DICOM; left and right cannot be told from this file",
            code="NII_NO_ORIENTATION",
        )
    if difference := forms[0].differs_from(forms[-1], FORMS_TOLERANCE_MM):
        raise GeometryError(
            f"qform and sform put the voxels in different places: {difference}",
            hint="decide which is right and set the other's code to 0",
            code="NII_FORMS_DISAGREE",
        )
    return forms[0]


def _sform(fields: Any, mm: float) -> Affine:
    affine = np.eye(4)
    affine[:3] = [fields["srow_x"], fields["srow_y"], fields["srow_z"]]
    affine[:3] *= mm
    return affine


def _qform(fields: Any, spacing_mm: Affine, mm: float) -> Affine:
    """Return the (4, 4) matrix of the quaternion (nifti1.h, "METHOD 2"; unit length as in nifti1_io.c)."""
    b, c, d = (float(fields[f"quatern_{name}"]) for name in "bcd")
    squares = b * b + c * c + d * d
    if not squares <= 1.01:  # also NaN; 1.01 leaves room for coarse rounding
        raise GeometryError(
            f"the qform's quaternion is impossible ({b:g}, {c:g}, {d:g})",
            hint="the header is damaged; export the file again",
            code="NII_AFFINE",
        )
    a = float(np.sqrt(max(1.0 - squares, 0.0)))
    a, b, c, d = np.array([a, b, c, d]) / np.sqrt(a * a + squares)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handedness = -1.0 if fields["pixdim"][0] < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing_mm * (1.0, 1.0, handedness)
    affine[:3, 3] = [float(fields[f"qoffset_{name}"]) * mm for name in "xyz"]
    return affine


def not_nifti() -> FormatError:
    """Return the error for content without a NIfTI signature, which Analyze 7.5 lacks, too."""
    return FormatError(
        "the content is not NIfTI",
        hint="the file is not what its name says; export it again",
        code="NII_NOT_NIFTI",
    )
