"""NRRD headers.

Source: "Definition of NRRD File Format", teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import re

import numpy as np

from medseg.core.errors import FormatError, GeometryError
from medseg.core.geometry import Affine
from medseg.io.layout import WBITS, Layout

_DTYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(
        ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"
    ),
    "float": "f4",
    "double": "f8",
}
_TO_RAS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
}
_UNSUPPORTED = ("datafile", "lineskip", "byteskip")

Fields = dict[str, str]


def is_nrrd(head: bytes) -> bool:
    """Say whether a file starts with the NRRD magic."""
    return head.startswith(b"NRRD000")


def read_layout(data: bytes) -> Layout:
    """Read the header at the start of `data`.

    Raises:
        FormatError: NRRD_HEADER, or NRRD_LAYOUT for a variant that is not supported.
        GeometryError: NRRD_NO_ORIENTATION.
    """
    fields, start = _read_fields(data)
    sizes = tuple(int(n) if n.isascii() and n.isdigit() else 0 for n in fields.get("sizes", "").split())
    if not sizes or min(sizes) < 1 or fields.get("dimension") != str(len(sizes)):
        raise _damaged()
    axes = _read_axes(fields)
    kind, encoding = fields.get("type", "none").lower(), fields.get("encoding", "none").lower()
    extra = [name for name in _UNSUPPORTED if fields.get(name, "0") != "0"]
    if kind not in _DTYPES or encoding not in WBITS or extra or axes.count("none") > 1 or len(sizes) > 4:
        raise FormatError(
            f"not supported: {len(sizes)} axes of type {kind}, encoding {encoding} {' '.join(extra)}",
            hint="save as .nii.gz, or as one .nrrd file with 3 spatial axes",
            code="NRRD_LAYOUT",
        )
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower(), "")
    dtype = np.dtype(order + _DTYPES[kind])
    if len(axes) != len(sizes) or (dtype.itemsize > 1 and not order):
        raise _damaged()
    return Layout(
        sizes=sizes,
        channel_axis=axes.index("none") if "none" in axes else None,
        dtype=dtype,
        encoding=encoding,
        start=start,
        affine=_read_affine(fields, [axis for axis in axes if axis != "none"]),
        prefix="NRRD",
    )


def _read_axes(fields: Fields) -> list[str]:
    axes = re.findall(r"none|\([^)]*\)", fields.get("spacedirections", ""))
    if fields.get("space", "").lower() not in _TO_RAS or not axes or "spaceorigin" not in fields:
        raise GeometryError(
            "the header does not say how the voxels lie in space (space, space directions, space origin)",
            hint="export the scan again with its orientation",
            code="NRRD_NO_ORIENTATION",
        )
    units = set(re.findall(r"[^\s\"]+", fields.get("spaceunits", "")))
    if not units <= {"mm", "millimeter"}:
        raise GeometryError(
            f"lengths are in {', '.join(sorted(units))}", hint="save in millimetres", code="NRRD_LAYOUT"
        )
    return axes


def _read_affine(fields: Fields, axes: list[str]) -> Affine:
    affine = np.eye(4)
    try:
        columns = [
            [float(x) for x in text.strip("() ").split(",")] for text in [*axes, fields["spaceorigin"]]
        ]
        affine[:3] = np.transpose(columns) * np.reshape(_TO_RAS[fields["space"].lower()], (3, 1))
    except ValueError as error:
        raise _damaged() from error
    return affine


def _read_fields(data: bytes) -> tuple[Fields, int]:
    """Return the fields up to the empty line, names without spaces, and where the voxels start."""
    end = re.search(rb"\r?\n\r?\n", data[: 1 << 20])
    if not is_nrrd(data) or not end:
        raise _damaged()
    fields: Fields = {}
    for line in data[: end.start()].decode("utf-8", "replace").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):  # ":=" is free text
            fields[key.replace(" ", "").lower()] = value.strip()
    return fields, end.end()


def _damaged() -> FormatError:
    return FormatError(
        "the header is not an NRRD header, or is damaged", hint="export the file again", code="NRRD_HEADER"
    )
