"""MetaImage headers (.mha, .mhd).

Source: MetaIO documentation (itk.org/Wiki/ITK/MetaIO/Documentation) and ITK's metaImage.cxx, which takes
positions as LPS millimetres, whatever AnatomicalOrientation says.
"""

from __future__ import annotations

import numpy as np

from medseg.core.errors import FormatError, GeometryError
from medseg.core.geometry import Affine
from medseg.io.grids import LPS_TO_RAS
from medseg.io.layout import Layout

_DTYPES = {
    "MET_CHAR": "i1", "MET_SHORT": "i2", "MET_INT": "i4", "MET_LONG_LONG": "i8", "MET_FLOAT": "f4",
    "MET_UCHAR": "u1", "MET_USHORT": "u2", "MET_UINT": "u4", "MET_ULONG_LONG": "u8", "MET_DOUBLE": "f8",
}  # fmt: skip
# The first name is today's, the others are its old synonyms (metaImage.cxx, metaObject.cxx).
_MATRIX = ("TransformMatrix", "Rotation", "Orientation")
_ORIGIN = ("Offset", "Origin", "Position")
_SPACING = ("ElementSpacing", "ElementSize")
_BIG_ENDIAN = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")

Fields = dict[str, str]


def is_metaimage(head: bytes) -> bool:
    """Say whether a file starts with a MetaImage key."""
    return head.lstrip().startswith((b"ObjectType", b"NDims", b"Comment"))


def read_layout(data: bytes) -> Layout:
    """Read the header at the start of `data`.

    Raises:
        FormatError: MHA_HEADER, or MHA_LAYOUT for a variant that is not supported.
        GeometryError: MHA_NO_ORIENTATION.
    """
    fields, start = _read_fields(data)
    sizes = tuple(_whole(n) for n in fields.get("DimSize", "").split())
    channels = _whole(fields.get("ElementNumberOfChannels", "1"))
    if not sizes or len(sizes) != _whole(fields.get("NDims", "")) or min(*sizes, channels) < 1:
        raise _damaged()
    kind, name = fields.get("ElementType", "none"), fields["ElementDataFile"]
    plain = _is_true(fields.get("BinaryData", "True")) and fields.get("HeaderSize", "0") == "0"
    if len(sizes) not in (2, 3) or kind not in _DTYPES or not plain or name.startswith("LIST") or "%" in name:
        raise FormatError(
            f"not supported: {len(sizes)} axes of type {kind}, text voxels, or one file per slice",
            hint="save as .nii.gz or as a plain .mha",
            code="MHA_LAYOUT",
        )
    order = ">" if _is_true(_first(fields, _BIG_ENDIAN, "False")) else "<"
    return Layout(
        sizes=sizes if channels == 1 else (channels, *sizes),
        channel_axis=None if channels == 1 else 0,
        dtype=np.dtype(order + _DTYPES[kind]),
        encoding="zlib" if _is_true(fields.get("CompressedData", "False")) else "raw",
        start=start,
        affine=_read_affine(fields, len(sizes)),
        prefix="MHA",
        data_name="" if name.upper() == "LOCAL" else name,
    )


def _read_affine(fields: Fields, count: int) -> Affine:
    texts = [_first(fields, names, "") for names in (_MATRIX, _ORIGIN, _SPACING)]
    if not all(texts):
        raise GeometryError(
            "the header does not say how the voxels lie in space (TransformMatrix, Offset, ElementSpacing)",
            hint="export the scan again with its orientation",
            code="MHA_NO_ORIENTATION",
        )
    affine = np.eye(4)
    try:
        matrix, origin, spacing = (np.array(text.split(), dtype=np.float64) for text in texts)
        # Each stored triple is one axis' direction, so the matrix is written column by column.
        affine[:count, :count] = matrix.reshape(count, count).T * spacing.reshape(count)
        affine[:count, 3] = origin.reshape(count)
    except ValueError as error:
        raise _damaged() from error
    if not spacing.min() > 0:
        raise _damaged()
    affine[:3] = LPS_TO_RAS[:3, :3] @ affine[:3]
    return affine


def _read_fields(data: bytes) -> tuple[Fields, int]:
    """Return the header's lines up to ElementDataFile, which ends it, and where the voxels start."""
    fields: Fields = {}
    start = 0
    while "ElementDataFile" not in fields:
        end = data.find(b"\n", start, start + 4096)
        end = end if end >= 0 else len(data)
        key, equals, value = data[start:end].partition(b"=")
        if not equals or len(key) > 80:
            raise _damaged()
        fields[key.strip().decode("ascii", "replace")] = value.strip().decode("utf-8", "replace")
        start = min(end + 1, len(data))
    return fields, start


def _first(fields: Fields, names: tuple[str, ...], default: str) -> str:
    return next((fields[name] for name in names if name in fields), default)


def _is_true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _damaged() -> FormatError:
    return FormatError(
        "the header is not a MetaImage header, or is damaged", hint="export the file again", code="MHA_HEADER"
    )
