"""PNG structure: what the header says, whether every chunk is whole, and a plain writer.

Source: PNG specification, third edition (W3C), sections 5 (chunks), 11 (IHDR) and 13 (decoders).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import FormatError
from medseg.io.safety import MAX_EXPANSION

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 33  # signature and IHDR chunk
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: gray, RGB, palette, gray + alpha, RGBA
_GRAY, _RGB, _GRAY_ALPHA = 0, 2, 4


def read_size(data: bytes) -> tuple[int, int, int, int]:
    """Return rows, columns, bits a sample and colour type from the first `HEADER_BYTES`.

    Raises:
        FormatError: PNG_HEADER or PNG_TRUNCATED.
    """
    if len(data) < HEADER_BYTES:
        raise _truncated()
    columns, rows, bits, colour = struct.unpack(">IIBB", data[16:26])
    if data[:8] != SIGNATURE or data[12:16] != b"IHDR" or colour not in _SAMPLES or not (rows and columns):
        raise FormatError(
            "the content is not a PNG image", hint="the file is not what its name says", code="PNG_HEADER"
        )
    return rows, columns, bits, colour


def check(data: bytes) -> int:
    """Verify every chunk of a PNG file.

    Returns:
        What decoded gray values must be divided by: decoders stretch 1, 2 and 4 bit samples to 0..255
        (specification, 13.12), and label numbers must come back as stored.

    Raises:
        FormatError: PNG_TRUNCATED, PNG_CRC, PNG_HEADER, PNG_TOO_LARGE or PNG_LAYOUT.
    """
    rows, columns, bits, colour = read_size(data)
    if rows * columns * bits * _SAMPLES[colour] // 8 > MAX_EXPANSION * len(data):
        raise FormatError(
            f"{len(data)} bytes cannot hold {rows} x {columns} pixels",
            hint="save it again",
            code="PNG_TOO_LARGE",
        )
    for kind, content in _chunks(data):
        shifts = kind == b"sBIT" and min(content, default=bits) < bits and colour != 3
        if shifts or (kind == b"tRNS" and colour == _GRAY) or colour == _GRAY_ALPHA:
            raise FormatError(
                "gray with transparency, or with fewer significant bits than stored, is not supported",
                hint="save as plain gray or RGB",
                code="PNG_LAYOUT",
            )
    return 255 // (2**bits - 1) if colour == _GRAY and bits < 8 else 1


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise _truncated()
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        content, end = data[at + 8 : at + 8 + size], at + 12 + size
        if end > len(data):
            raise _truncated()
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise FormatError(
                "a checksum is wrong: the file is damaged", hint="copy or export it again", code="PNG_CRC"
            )
        yield kind, content
        at = end


def encode(array_IJC: NDArray[Any]) -> bytes:
    """Return PNG bytes of (rows, columns, 1 or 3) uint8 or uint16, the same bytes for the same input."""
    rows, columns, samples = array_IJC.shape
    bits = array_IJC.dtype.itemsize * 8
    lines = np.zeros((rows, 1 + columns * samples * bits // 8), np.uint8)  # column 0: filter type "none"
    lines[:, 1:] = np.frombuffer(array_IJC.astype(f">u{bits // 8}").tobytes(), np.uint8).reshape(rows, -1)
    header = struct.pack(">IIBBBBB", columns, rows, bits, _GRAY if samples == 1 else _RGB, 0, 0, 0)
    pixels = zlib.compress(lines.tobytes(), 6)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _truncated() -> FormatError:
    return FormatError(
        "the file breaks off before its end", hint="copy or export it again", code="PNG_TRUNCATED"
    )
