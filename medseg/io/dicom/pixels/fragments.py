"""Where the frames of compressed pixel data lie in a file.

Encapsulated pixel data are items: an offset table, often empty, and fragments of streams (PS3.5 A.4). A
frame is one fragment or several; what does not tell which is refused. Only heads of items are read here.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from medseg.core.errors import FormatError

Span = tuple[int, int]
"""First byte in the file and number of bytes."""

PIXEL_DATA, UNDEFINED = b"\xe0\x7f\x10\x00", b"\xff\xff\xff\xff"
ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")  # of a JPEG or JPEG-LS, of a JPEG 2000 stream


def find_frames(stream: BinaryIO, size: int, frames: int) -> list[list[Span]]:
    """Return the fragments of each frame.

    Args:
        stream: At the pixel element of an explicit little endian data set.
        size: Bytes of the file.
        frames: How many the header announces.

    Raises:
        FormatError: DICOM_TRUNCATED, or DICOM_DECODE where the items are damaged or of unknown frames.
    """
    head = stream.read(12)
    if head[:4] != PIXEL_DATA or head[8:] != UNDEFINED:
        raise _damaged("the compressed pixel data are not in fragments")
    spans = _read_spans(stream, size)
    if not spans:
        raise _cut("the compressed pixel data hold nothing")
    table, fragments = spans[0], spans[1:]
    if len(fragments) < frames:
        raise _cut(f"{len(fragments)} fragments of pixel data for {frames} frames")
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    starts = _read_table(stream, table, fragments, frames) or _find_starts(stream, fragments)
    if frames == 1 and not starts:  # a stream that is not known by its first bytes
        return [fragments]
    if len(starts) != frames or starts[0] != 0:
        raise _damaged(
            f"{len(fragments)} fragments of pixel data for {frames} frames, and nothing tells their bounds"
        )
    ends = [*starts[1:], len(fragments)]
    return [fragments[start:end] for start, end in zip(starts, ends, strict=True)]


def read_spans(stream: BinaryIO, spans: list[Span]) -> bytes:
    """Return the bytes of one frame's fragments."""
    parts = []
    for start, length in spans:
        stream.seek(start)
        parts.append(stream.read(length))
    return b"".join(parts)


def _read_spans(stream: BinaryIO, size: int) -> list[Span]:
    """Return the spans of all items up to the delimiter; a file may end instead of having one."""
    spans: list[Span] = []
    while (head := stream.read(8))[:4] != DELIMITER and head:
        if len(head) < 8:
            raise _cut("the file ends within the pixel data")
        if head[:4] != ITEM or head[4:] == UNDEFINED:
            raise _damaged(f"the pixel data are damaged after fragment {len(spans)}")
        (length,) = struct.unpack("<L", head[4:])
        start = stream.tell()
        if start + length > size:
            raise _cut(f"fragment {len(spans)} needs {length} bytes, the file holds {size - start}")
        spans.append((start, length))
        stream.seek(length, 1)
    return spans


def _read_table(stream: BinaryIO, table: Span, fragments: list[Span], frames: int) -> list[int]:
    """Return the first fragment of each frame by the offset table; nothing where that is empty or wrong."""
    if table[1] != 4 * frames:
        return []
    offsets = struct.unpack(f"<{frames}L", read_spans(stream, [table]))
    first = fragments[0][0]
    numbers = {start - first: number for number, (start, _) in enumerate(fragments)}
    starts = [numbers.get(offset, -1) for offset in offsets]
    return starts if starts == sorted(set(starts)) and starts[0] == 0 else []


def _find_starts(stream: BinaryIO, fragments: list[Span]) -> list[int]:
    """Return the fragments that a stream starts in; within a stream these bytes cannot occur."""
    return [
        number
        for number, (start, _) in enumerate(fragments)
        if read_spans(stream, [(start, 4)]).startswith(STARTS)
    ]


def _cut(message: str) -> FormatError:
    return FormatError(message, hint="the file was cut off; export it again", code="DICOM_TRUNCATED")


def _damaged(message: str) -> FormatError:
    return FormatError(message, hint="export the series again, uncompressed", code="DICOM_DECODE")
