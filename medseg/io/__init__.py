"""Files in and out: every image is read whole and verified, or refused with a code.

`FORMATS` holds one entry per file format; the functions below choose by the file's name, and by its first
bytes where the name says nothing. A reader never returns a part of an image.

Codes (all formats use the first block; XXX is NII, PNG, TIFF, NRRD or MHA):

    FILE_MISSING  FILE_UNREADABLE  FORMAT_UNKNOWN  XXX_EMPTY
    VOXELS_NOT_FINITE    NaN or infinite voxels, with their number
    LABEL_NOT_INTEGER  LABEL_CHANNELS  LABEL_RANGE    not a label map
    PROBABILITY_RANGE    outside 0..1, or NaN
    GRID_DIFFERS         what is written does not lie on the grid of `like`
    DETACHED_DATA        a header names a data file that is not beside it
    XXX_TRUNCATED        fewer bytes than the header asks for
    XXX_TRAILING         more bytes than the header asks for
    XXX_CRC              a checksum or the compressed stream is wrong
    XXX_TOO_LARGE        more bytes than allowed (decompression bombs)
    XXX_HEADER           impossible or contradictory header values
    XXX_AFFINE           NaN, infinite or singular position in space
    XXX_SHEARED          image axes not at right angles
    XXX_NO_ORIENTATION   the header says nowhere how the voxels lie in space
    XXX_LAYOUT           a legal variant that is not supported, with the way out in the hint

    NII_NOT_NIFTI        other content under a NIfTI name, or Analyze 7.5
    NII_PAIR             header of a .hdr/.img pair
    NII_DIMS             1D, more than one channel or time axis
    NII_COLOUR  NII_COMPLEX  NII_DATATYPE    voxel types without one real number
    NII_OFFSET  NII_SCALING  NII_PIXDIM      impossible first byte, slope, voxel size
    NII_FORMS_DISAGREE   qform and sform differ by more than 0.1 mm at a corner
    NII_SUFFIX           written files end in .nii.gz
    PIXELS_DECODE        the picture decoder refuses PNG or TIFF content
    PIXELS_WRITE  ITK_WRITE    what PNG, NRRD or MetaImage cannot hold
    DICOM_...            see medseg.io.dicom
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import DataError, FormatError, GeometryError
from medseg.core.files import atomic_path
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.io import itk, nifti, pixels
from medseg.io.format import SNIFF_BYTES, Format
from medseg.io.mapped import Mapped, map_volume
from medseg.io.safety import read_bytes
from medseg.io.voxels import shrink, to_labels

if TYPE_CHECKING:
    from medseg.io.dicom.labels.label import DicomLabel
    from medseg.io.dicom.scan import Scan

FORMATS: dict[str, Format] = {
    "nifti": nifti.FORMAT,
    "pixels": pixels.FORMAT,
    "itk": itk.FORMAT,
}

SUFFIXES: tuple[str, ...] = tuple(
    sorted((suffix for format_ in FORMATS.values() for suffix in format_.suffixes), key=len, reverse=True)
)
"""Every known file name ending, longest first."""


def stem(path: Path | str) -> str:
    """Return the file name without its image suffix: "a.b.nii.gz" -> "a.b"."""
    name = Path(path).name
    return next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end)), name)


def is_image(path: Path) -> bool:
    """Say whether a file is an image by its name; hidden files ("._a.nii.gz") are not."""
    return not path.name.startswith(".") and path.name.lower().endswith(SUFFIXES) and path.is_file()


def looks_like_dicom(path: Path) -> bool:
    """Say by the first bytes whether a file is DICOM: the mark, or a first element as old exports have it."""
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except OSError:
        return False
    is_old = head[:1] in {b"\2", b"\x08"} and head[1:2] == b"\0" and head[4:6] in {b"UL", b"UI", b"CS"}
    return head[128:] == b"DICM" or is_old


def mask_suffix(image: Path | Scan) -> str:
    """Return the suffix of masks: pictures get pictures, everything else NIfTI."""
    is_picture = isinstance(image, Path) and image.name.lower().endswith(pixels.FORMAT.suffixes)
    return ".png" if is_picture else ".nii.gz"


def read_volume(image: Path | Scan, notes: set[str] | None = None) -> Volume:
    """Read an image as (C, I, J, K).

    Args:
        image: A file, or the scan that was chosen of DICOM files.
        notes: Gets codes of warnings that only the voxels tell.

    Raises:
        DataError: With one of the codes above.
    """
    if isinstance(image, Path):
        return _format_of(image).read(image)
    from medseg.io.dicom import read_scan

    return read_scan(image, notes)


def read_labels(label: Path | DicomLabel) -> Labels:
    """Read a label map; whole numbers stored as floats become integers.

    Raises:
        DataError: With one of the codes above.
    """
    if isinstance(label, Path):
        return to_labels(_format_of(label).read(label))
    from medseg.io.dicom.labels.label import read_label

    return read_label(label)


def list_files(image: Path | Scan | DicomLabel) -> tuple[Path, ...]:
    """Return all files that an image is stored in: most have one, a .mhd has its voxels beside it.

    Raises:
        DataError: With one of the codes above.
    """
    if not isinstance(image, Path):
        return image.files
    return itk.list_files(image) if image.name.lower().endswith(".mhd") else (image,)


def read_geometry(image: Path | Scan) -> Geometry:
    """Read the grid of an image from its header alone.

    Raises:
        DataError: With one of the codes above.
    """
    return _format_of(image).read_geometry(image) if isinstance(image, Path) else image.geometry


def write_labels(path: Path, labels: Labels, like: Path | Scan | None = None) -> None:
    """Write a label map atomically, in the smallest integer type that holds its values.

    Args:
        path: .nii.gz, .png (2D), .nrrd or .mha.
        labels: (I, J, K) on the grid of `like`.
        like: The image that was segmented. A NIfTI gives its codes, both matrices, units and version;
            a DICOM scan only its grid.

    Raises:
        GeometryError: GRID_DIFFERS.
        FormatError: The format cannot hold the values, or its name is unknown.
    """
    write_volume(path, Volume(shrink(labels.array)[None], labels.geometry), like)


def write_volume(path: Path, volume: Volume, like: Path | Scan | None = None) -> None:
    """Write an image atomically in its own type (float64 as float32).

    Args:
        path: .nii.gz, .nrrd or .mha; .png for 2D uint8 and uint16.
        volume: (C, I, J, K).
        like: See `write_labels`.
    """
    _check_same_grid(volume.geometry, like)
    format_ = _format_by_name(path)
    with atomic_path(path) as temporary:
        format_.write(temporary, volume, _nifti_or_none(like))


def write_probabilities(path: Path, probabilities_IJKC: NDArray[Any], like: Path | Scan | Geometry) -> None:
    """Write class probabilities atomically as uint16 with scl_slope 1/65535.

    Args:
        path: .nii.gz.
        probabilities_IJKC: (I, J, K, C) in 0..1.
        like: The image that was segmented, or its grid.

    Raises:
        DataError: PROBABILITY_RANGE.
    """
    geometry = like if isinstance(like, Geometry) else read_geometry(like)
    low, high = float(probabilities_IJKC.min()), float(probabilities_IJKC.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"probabilities lie in 0..1, not in {low:g}..{high:g}",
            hint="apply softmax",
            code="PROBABILITY_RANGE",
        )
    steps = np.empty((probabilities_IJKC.shape[3], *probabilities_IJKC.shape[:3]), np.uint16)
    for channel, step in enumerate(steps):
        np.rint(probabilities_IJKC[..., channel] * np.float32(65535), out=step, casting="unsafe")
    volume = Volume(steps, geometry)
    with atomic_path(path) as temporary:
        header = None if isinstance(like, Geometry) else _nifti_or_none(like)
        nifti.write(temporary, volume, header, slope=1 / 65535)


@contextmanager
def stream_probabilities(path: Path, channels: int, like: Path | Scan, *, slowest: int) -> Iterator[Mapped]:
    """Yield what to write class probabilities to; at the end it becomes the file of `write_probabilities`.

    Memory is needed for what was not given to its `release` only: the rest waits, uncompressed, in a file
    without a name beside `path`.

    Args:
        path: .nii.gz.
        channels: How many classes or regions.
        like: The image that was segmented.
        slowest: Axis of the image, as stored, along which it will be filled.
    """
    geometry = read_geometry(like)
    with atomic_path(path) as temporary:
        head = nifti.make_head(geometry, channels, np.dtype("<u2"), _nifti_or_none(like), slope=1 / 65535)
        with map_volume(temporary, head, (channels, *geometry.shape), slowest) as mapped:
            yield mapped


def read_voxel_bytes(image: Path | Scan) -> int:
    """Return the bytes of an image's voxel in memory, from its header; 4 where that does not tell."""
    if isinstance(image, Path) and _format_of(image) is FORMATS["nifti"]:
        return nifti.read_voxel_bytes(image)
    return 4


def _format_by_name(path: Path) -> Format:
    name = path.name.lower()
    for format_ in FORMATS.values():
        if name.endswith(format_.suffixes):
            return format_
    raise FormatError(
        "the file name does not end in a known format",
        hint=f"known: {' '.join(SUFFIXES)}",
        code="FORMAT_UNKNOWN",
    )


def _format_of(path: Path) -> Format:
    """Choose by name, else by content."""
    if path.name.lower().endswith(SUFFIXES):
        return _format_by_name(path)
    head = read_bytes(path, "FILE", SNIFF_BYTES)
    for format_ in FORMATS.values():
        if format_.sniff(head):
            return format_
    return _format_by_name(path)


def _check_same_grid(geometry: Geometry, like: Path | Scan | None) -> None:
    difference = geometry.differs_from(read_geometry(like)) if like else ""
    if difference:
        raise GeometryError(
            f"the result does not lie on the grid of its image: {difference}",
            hint="resample it to the image first",
            code="GRID_DIFFERS",
        )


def _nifti_or_none(like: Path | Scan | None) -> Path | None:
    return like if isinstance(like, Path) and _format_of(like) is FORMATS["nifti"] else None
