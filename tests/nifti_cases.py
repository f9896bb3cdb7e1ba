"""NIfTI files that tools and people make, and what must come of each.

Voxels hold the ramp of `dicom_files`, so a wrong axis, sign, unit, byte order or scaling shows. The usual
grid is 7 x 6 x 5 voxels of 0.75 x 1.25 x 3 mm, its first axis towards the left of the patient.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tests.bad_nifti import BAD_IMAGES, IO_CODES, patch
from tests.dicom_files import AXIAL, DOUBLE_OBLIQUE, RAMP, SAGITTAL, SMALL_RAMP, Ramp
from tests.ramp_checks import points_lps

Array = NDArray[Any]
SHAPE = (7, 6, 5)
AFFINE = AXIAL.affine_ras
NAN, INF = float("nan"), float("inf")
MM_AND_SECONDS = 10


@dataclass(frozen=True)
class File:
    """How a good file is made; `fields` overwrite the raw header in the end.

    Args:
        forms: Which of "sform" and "qform" say where the voxels are.
        unit_mm: Length of the unit that the header counts in.
        slope, inter: value = stored * slope + inter.
    """

    affine: Array | None = None
    ramp: Ramp = RAMP
    dtype: str = "<i2"
    version: int = 1
    forms: tuple[str, ...] = ("sform", "qform")
    unit_mm: float = 1.0
    slope: float = 1.0
    inter: float = 0.0
    slack: float = 0.55

    @property
    def place(self) -> Array:
        """(4, 4) of the voxels in RAS+ millimetres."""
        return AFFINE if self.affine is None else self.affine

    def make(self, **fields: Any) -> bytes:
        stored = (self.ramp.at(points_lps(SHAPE, self.place)) - self.inter) / self.slope
        dtype = np.dtype(self.dtype)
        array = stored.astype(dtype) if dtype.kind == "f" else np.rint(stored).astype(dtype)
        kind = nib.Nifti1Image if self.version == 1 else nib.Nifti2Image
        header = kind.header_class(endianness=">" if dtype.str[0] == ">" else "<")
        header.set_data_dtype(dtype)
        image = kind(array, None, header)
        in_units = np.diag([1 / self.unit_mm] * 3 + [1]) @ self.place
        image.set_sform(in_units, code=int("sform" in self.forms))
        image.set_qform(in_units, code=int("qform" in self.forms))
        image.header["xyzt_units"] = {1.0: 2, 1000.0: 1, 0.001: 3}[self.unit_mm]
        image.header["scl_slope"], image.header["scl_inter"] = self.slope, self.inter
        data = bytearray(image.to_bytes())
        # nibabel resets the scaling as it writes.
        block = kind.header_class(bytes(data[: len(header.binaryblock)]), header.endianness, check=False)
        for name, value in {"scl_slope": self.slope, "scl_inter": self.inter, **fields}.items():
            block[name] = value
        return bytes(block.binaryblock) + bytes(data[len(header.binaryblock) :])


Write = Callable[[Path], Path]


@dataclass(frozen=True)
class Case:
    """A file and what must come of it: `truth` for a good one, else `code`."""

    name: str
    write: Write
    truth: File | None = None
    code: str = ""
    channels: int = 1
    slices: int = SHAPE[2]


def good(name: str, file: File = File(), **fields: Any) -> Case:
    return Case(name, lambda path: put(path, gzip.compress(file.make(**fields))), file)


def stored_as(name: str, change: Callable[[bytes], bytes]) -> Case:
    """Return a good case whose bytes are packed in another way."""
    return Case(name, lambda path: put(path, change(File().make())), File())


def bad(name: str, code: str, file: File = File(), **fields: Any) -> Case:
    return Case(name, lambda path: put(path, gzip.compress(file.make(**fields))), code=code)


def damaged(name: str, code: str, change: Callable[[bytes], bytes]) -> Case:
    return Case(name, lambda path: put(path, change(File().make())), code=code)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def add_extension(data: bytes) -> bytes:
    """Put a comment of 32 bytes between header and voxels (nifti1.h, "extension")."""
    comment = (32).to_bytes(4, "little") + (6).to_bytes(4, "little") + b"scanned with care".ljust(24, b"\0")
    return patch(data[:348] + b"\1\0\0\0" + comment + data[352:], vox_offset=384)


def add_channels(shape: tuple[int, ...]) -> Callable[[bytes], bytes]:
    """Add the volume once more, for good files of several channels."""
    dim = [len(shape), *shape, *[1] * (7 - len(shape))]
    return lambda data: gzip.compress(patch(data + data[352:], dim=dim))


def first_slice(data: bytes) -> bytes:
    return gzip.compress(patch(data[: 352 + 84], dim=[2, 7, 6, 1, 1, 1, 1, 1]))


def nan_in_one(value: float) -> Callable[[bytes], bytes]:
    """Return a float file with one voxel that is no number."""

    def change(_: bytes) -> bytes:
        data = bytearray(File(dtype="<f4").make())
        data[400:404] = np.float32(value).tobytes()
        return bytes(data)

    return change


TURNED = DOUBLE_OBLIQUE.affine_ras
MIRRORED = AFFINE @ np.diag([-1.0, 1, 1, 1])
FEW = File(ramp=SMALL_RAMP, dtype="|u1")

GOOD = [
    good("both_forms"),
    good("sform_alone", File(forms=("sform",))),
    good("qform_alone", File(forms=("qform",))),
    good("qform_alone_and_nonsense_in_the_sform", File(forms=("qform",)), srow_x=[NAN] * 4),
    good("sform_alone_and_nonsense_in_the_qform", File(forms=("sform",)), quatern_b=9, quatern_c=NAN),
    good("forms_a_little_apart", File(), qoffset_x=float(AFFINE[0, 3]) + 0.05),
    good("codes_of_an_atlas", File(), sform_code=4, qform_code=2),
    good("oblique", File(TURNED)),
    good("oblique_qform_alone", File(TURNED, forms=("qform",))),
    good("oblique_mirrored_qform_alone", File(TURNED @ np.diag([1.0, 1, -1, 1]), forms=("qform",))),
    good(
        "qfac_zero",
        File(np.diag([0.75, 1.25, 3, 1]), forms=("qform",)),
        pixdim=[0, 0.75, 1.25, 3, 0, 0, 0, 0],
    ),
    good("first_axis_to_the_right", File(MIRRORED)),
    good("sagittal", File(SAGITTAL.affine_ras)),
    good(
        "spacing_of_the_header_wrong_without_a_qform", File(forms=("sform",)), pixdim=[1, 1, 1, 1, 0, 0, 0, 0]
    ),
    good("metres", File(unit_mm=1000.0)),
    good("micrometres", File(unit_mm=0.001)),
    good("micrometres_qform_alone", File(TURNED, unit_mm=0.001, forms=("qform",))),
    good("unit_unknown", File(), xyzt_units=0),
    good("unit_with_seconds", File(), xyzt_units=MM_AND_SECONDS),
    good("uint8", FEW),
    good("int8", File(ramp=replace(SMALL_RAMP, base=0), dtype="|i1")),
    good("uint16_above_32767", File(ramp=Ramp(base=50000.0), dtype="<u2")),
    good("int32", File(ramp=Ramp(base=-3e6), dtype="<i4")),
    good("uint32", File(ramp=Ramp(base=3e9), dtype="<u4")),
    good("int64", File(ramp=Ramp(base=-3e12), dtype="<i8")),
    good("uint64", File(dtype="<u8")),
    good("float32", File(dtype="<f4")),
    good("float64", File(dtype="<f8")),
    good("big_endian", File(dtype=">i2")),
    good("big_endian_float_oblique", File(TURNED, dtype=">f4")),
    good("version_2", File(version=2)),
    good("version_2_big_endian", File(version=2, dtype=">i2", forms=("qform",))),
    good("slope_fraction", File(slope=0.125, inter=-12.5)),
    good("slope_negative", File(slope=-1.0, inter=4095.0)),
    good("slope_zero_is_none", File(), scl_slope=0, scl_inter=0),
    good("slope_nan_is_none", File(), scl_slope=NAN, scl_inter=NAN),
    good("intercept_alone", File(inter=-1024.0)),
    good("unused_axes_zero", File(), dim=[3, 7, 6, 5, 0, 0, 0, 0]),
    good("unused_spacing_nonsense", File(), pixdim=[-1, 0.75, 1.25, 3, NAN, -7, INF, 0], qform_code=0),
    good("text_in_no_script", File(), descrip=bytes(range(128, 200)), intent_name=b"\xff\xfe"),
    good(
        "display_range_and_times_of_slices", File(), cal_max=3, cal_min=9, slice_duration=NAN, slice_code=77
    ),
    good("one_volume_of_a_series", File(), dim=[4, 7, 6, 5, 1, 1, 1, 1]),
    good("seven_axes", File(), dim=[7, 7, 6, 5, 1, 1, 1, 1]),
    replace(stored_as("two_volumes", add_channels((7, 6, 5, 2))), channels=2),
    replace(stored_as("two_vectors", add_channels((7, 6, 5, 1, 2))), channels=2),
    replace(stored_as("one_picture", first_slice), slices=1),
    stored_as("extension", lambda data: gzip.compress(add_extension(data))),
    stored_as(
        "voxels_late", lambda data: gzip.compress(patch(data[:352] + bytes(64) + data[352:], vox_offset=416))
    ),
    stored_as("not_compressed", lambda data: data),
    stored_as(
        "three_members",
        lambda data: b"".join(gzip.compress(data[a:b]) for a, b in ((0, 9), (9, 400), (400, None))),
    ),
    stored_as("padded_with_zeros", lambda data: gzip.compress(data + bytes(512)) + bytes(7)),
]

BAD = [
    bad("forms_shifted", "NII_FORMS_DISAGREE", qoffset_x=float(AFFINE[0, 3]) + 0.15),
    bad("forms_mirrored", "NII_FORMS_DISAGREE", srow_x=[-v for v in AFFINE[0]]),
    bad("forms_of_other_spacing", "NII_FORMS_DISAGREE", pixdim=[1, 0.8, 1.25, 3, 0, 0, 0, 0]),
    bad("forms_turned", "NII_FORMS_DISAGREE", File(TURNED), quatern_b=0, quatern_c=0, quatern_d=0),
    bad("no_form", "NII_NO_ORIENTATION", File(forms=())),
    bad("sheared", "NII_SHEARED", File(forms=("sform",)), srow_x=[-0.75, 0.02, 0, 0]),
    bad("sform_nan", "NII_AFFINE", File(forms=("sform",)), srow_y=[0, NAN, 0, 0]),
    bad("sform_infinite", "NII_AFFINE", File(forms=("sform",)), srow_y=[0, INF, 0, 0]),
    bad("sform_flat", "NII_AFFINE", File(forms=("sform",)), srow_z=[0, 0, 0, 0]),
    bad("quaternion_too_long", "NII_AFFINE", File(forms=("qform",)), quatern_c=1.2),
    bad("quaternion_nan", "NII_AFFINE", File(forms=("qform",)), quatern_c=NAN),
    bad("offset_infinite", "NII_AFFINE", File(forms=("qform",)), qoffset_z=INF),
    bad("slope_infinite", "NII_SCALING", scl_slope=INF),
    bad("slope_minus_infinite", "NII_SCALING", scl_slope=-INF),
    bad("intercept_nan", "NII_SCALING", scl_slope=2, scl_inter=NAN),
    bad("values_beyond_float32", "VOXELS_NOT_FINITE", scl_slope=3e38),
    bad("complex64", "NII_COMPLEX", datatype=32, bitpix=64),
    bad("complex128", "NII_COMPLEX", datatype=1792, bitpix=128),
    bad("rgb", "NII_COLOUR", datatype=128, bitpix=24),
    bad("rgba", "NII_COLOUR", datatype=2304, bitpix=32),
    bad("one_bit", "NII_DATATYPE", datatype=1, bitpix=1),
    bad("float128", "NII_DATATYPE", datatype=1536, bitpix=128),
    bad("type_unknown", "NII_DATATYPE", datatype=0),
    bad("type_and_bits_contradict", "NII_HEADER", bitpix=32),
    bad("dimension_negative", "NII_HEADER", dim=[3, 7, -6, 5, 1, 1, 1, 1]),
    bad("dimension_zero", "NII_HEADER", dim=[3, 7, 6, 0, 1, 1, 1, 1]),
    bad("no_axis", "NII_HEADER", dim=[0, 7, 6, 5, 1, 1, 1, 1]),
    bad("eight_axes", "NII_HEADER", dim=[8, 7, 6, 5, 1, 1, 1, 1]),
    bad("one_axis", "NII_DIMS", dim=[1, 210, 1, 1, 1, 1, 1, 1]),
    bad("time_and_vectors", "NII_DIMS", dim=[5, 7, 3, 1, 2, 5, 1, 1]),
    bad("one_row_more", "NII_TRUNCATED", dim=[3, 7, 7, 5, 1, 1, 1, 1]),
    bad("one_slice_less", "NII_TRAILING", dim=[3, 7, 6, 4, 1, 1, 1, 1]),
    bad("dimensions_absurd", "NII_TOO_LARGE", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]),
    bad("dimensions_absurd_version_2", "NII_TOO_LARGE", File(version=2), dim=[3, 2**40, 6, 5, 1, 1, 1, 1]),
    bad(
        "dimensions_overflow_version_2",
        "NII_TOO_LARGE",
        File(version=2),
        dim=[3, 2**32, 2**32, 5, 1, 1, 1, 1],
    ),
    bad("voxels_in_the_header", "NII_OFFSET", vox_offset=0),
    bad("voxels_at_half_a_byte", "NII_OFFSET", vox_offset=352.5),
    bad("voxels_before_the_file", "NII_OFFSET", vox_offset=-352),
    bad("voxels_nowhere", "NII_OFFSET", vox_offset=NAN),
    bad("voxels_beyond_the_end", "NII_TRUNCATED", vox_offset=4000),
    bad("spacing_zero", "NII_PIXDIM", pixdim=[1, 0.75, 0, 3, 0, 0, 0, 0]),
    bad("spacing_nan", "NII_PIXDIM", pixdim=[1, NAN, 1.25, 3, 0, 0, 0, 0]),
    bad("spacing_negative", "NII_PIXDIM", pixdim=[1, 0.75, 1.25, -3, 0, 0, 0, 0]),
    bad("unit_unheard_of", "NII_HEADER", xyzt_units=5),
    bad("half_of_a_pair", "NII_PAIR", magic=b"ni1"),
    bad("analyze", "NII_NOT_NIFTI", magic=b""),
    damaged("cut_off", "NII_TRUNCATED", lambda data: data[:-1]),
    damaged("cut_off_compressed", "NII_TRUNCATED", lambda data: gzip.compress(data)[:-9]),
    damaged("cut_off_in_the_header", "NII_TRUNCATED", lambda data: data[:300]),
    damaged("checksum_wrong", "NII_CRC", lambda data: gzip.compress(data)[:-8] + bytes(8)),
    damaged("goes_on", "NII_TRAILING", lambda data: data + b"and more"),
    damaged("goes_on_compressed", "NII_TRAILING", lambda data: gzip.compress(data + b"and more")),
    damaged("bomb", "NII_TRAILING", lambda data: gzip.compress(data + bytes(30_000_000), 1)),
    damaged("compressed_twice", "NII_NOT_NIFTI", lambda data: gzip.compress(gzip.compress(data))),
    damaged("picture", "NII_NOT_NIFTI", lambda data: b"\x89PNG\r\n\x1a\n" + data),
    damaged("dicom", "NII_NOT_NIFTI", lambda data: bytes(128) + b"DICM" + data),
    damaged("one_voxel_nan", "VOXELS_NOT_FINITE", nan_in_one(NAN)),
    damaged("one_voxel_infinite", "VOXELS_NOT_FINITE", nan_in_one(-INF)),
    *(Case(f"other_{name}", BAD_IMAGES[name], code=code) for name, code in IO_CODES.items()),
]

CASES = {case.name: case for case in (*GOOD, *BAD)}
