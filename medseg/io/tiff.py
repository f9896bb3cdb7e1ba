"""TIFF structure: what the first directory says, and whether all its strips are in the file.

Only layouts that the decoder returns unchanged pass: SimpleITK turns tiled, planar and 1 bit files into
RGBA, keeps one of five channels, and stacks pages, each without a word.
Source: TIFF 6.0 (Adobe 1992), sections 2 and 8; BigTIFF design (libtiff.gitlab.io).
"""

from __future__ import annotations

import struct

from medseg.core.errors import FormatError
from medseg.io.safety import MAX_EXPANSION

_SIZES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}  # the integer field types
_COLUMNS, _ROWS, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _ORIENTATION, _SAMPLES, _COUNTS, _PLANAR, _TILES, _FORMAT = 273, 274, 277, 279, 284, 322, 339
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_LOSSLESS = (1, 5, 8, 32773, 32946)  # none, LZW, deflate, PackBits, old deflate

Tags = dict[int, tuple[int, ...]]


def is_tiff(head: bytes) -> bool:
    """Say whether a file starts like TIFF or BigTIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_size(data: bytes) -> tuple[int, int]:
    """Return rows and columns.

    Raises:
        FormatError: TIFF_HEADER, TIFF_TRUNCATED or TIFF_LAYOUT (several pages).
    """
    tags = _read_tags(data)
    rows, columns = tags.get(_ROWS, (0,))[0], tags.get(_COLUMNS, (0,))[0]
    if not (rows and columns):
        raise _damaged()
    return rows, columns


def check(data: bytes) -> None:
    """Verify that the file holds one picture, whole, in a layout that decodes to what is stored.

    Raises:
        FormatError: TIFF_HEADER, TIFF_TRUNCATED, TIFF_TOO_LARGE or TIFF_LAYOUT.
    """
    rows, columns = read_size(data)
    tags = _read_tags(data)
    samples = tags.get(_SAMPLES, (1,))[0]
    bits = tags.get(_BITS, (1,))
    kinds = set(tags.get(_FORMAT, (_UNSIGNED,)))
    supported = {
        "tiles": _TILES not in tags,
        "photometric": tags.get(_PHOTOMETRIC, (1,))[0] == (1 if samples == 1 else 2),
        "samples": samples in (1, 3, 4),
        "bits": set(bits) <= ({8, 16, 32} if samples == 1 else {8, 16}) and len(set(bits)) == 1,
        "sample format": kinds <= {_UNSIGNED, _SIGNED} or (kinds == {_FLOAT} and set(bits) == {32}),
        "planes": samples == 1 or tags.get(_PLANAR, (1,))[0] == 1,
        "orientation": tags.get(_ORIENTATION, (1,))[0] == 1,
        "compression": tags.get(_COMPRESSION, (1,))[0] in _LOSSLESS,
    }
    if unsupported := [name for name, fine in supported.items() if not fine]:
        raise _layout(f"not supported here: {', '.join(unsupported)}")
    offsets, counts = tags.get(_OFFSETS, ()), tags.get(_COUNTS, ())
    if not offsets or len(offsets) != len(counts):
        raise _damaged()
    if any(offset + count > len(data) for offset, count in zip(offsets, counts)):
        raise _truncated()
    needed = rows * columns * samples * bits[0] // 8
    if tags.get(_COMPRESSION, (1,))[0] == 1 and sum(counts) < needed:
        raise _truncated()
    if needed > MAX_EXPANSION * len(data):
        raise FormatError(
            f"{len(data)} bytes cannot hold {rows} x {columns} pixels",
            hint="save it again",
            code="TIFF_TOO_LARGE",
        )


def _read_tags(data: bytes) -> Tags:
    """Return the integer tags of the only directory."""
    if not is_tiff(data):
        raise _damaged()
    order, big = ("<" if data[:1] == b"I" else ">"), 43 in data[2:4]
    count_code, entry, value_at, pointer = ("Q", 20, 12, "Q") if big else ("H", 12, 8, "I")
    try:
        (at,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + count_code, data, at)
        at += struct.calcsize(count_code)
        tags: Tags = {}
        for start in range(at, at + count * entry, entry):
            tag, kind, length = struct.unpack_from(f"{order}HH{pointer}", data, start)
            if kind not in _SIZES or not 0 < length <= len(data):
                continue
            layout = f"{order}{length}{_SIZES[kind]}"
            inline = struct.calcsize(layout) <= struct.calcsize(pointer)
            place = (
                start + value_at if inline else struct.unpack_from(order + pointer, data, start + value_at)[0]
            )
            tags[tag] = struct.unpack_from(layout, data, place)
        (following,) = struct.unpack_from(order + pointer, data, at + count * entry)
    except struct.error as error:
        raise _truncated() from error
    if following:
        raise _layout("the file holds several pages")
    return tags


def _layout(message: str) -> FormatError:
    return FormatError(
        message, hint="save as one page of plain gray or RGB strips, or as PNG", code="TIFF_LAYOUT"
    )


def _damaged() -> FormatError:
    return FormatError("the content is not a TIFF image", hint="copy or export it again", code="TIFF_HEADER")


def _truncated() -> FormatError:
    return FormatError(
        "parts of the picture lie beyond the file's end", hint="copy it again", code="TIFF_TRUNCATED"
    )
