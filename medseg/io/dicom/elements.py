"""The elements of one file, parsed by pydicom within bounds and without a word.

What a hostile or damaged file can make a parser do is limited here: how much is read, inflated and
allocated, and which exceptions come out.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pydicom.config
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from medseg.io.dicom.layout import BIG_ENDIAN, DEFLATED, IMPLICIT, NATIVE
from medseg.io.dicom.pixels.decode import inflate
from medseg.io.dicom.tags import PIXEL_ELEMENTS, TAGS

MAX_HEADER_BYTES = 1 << 30  # of an inflated file: the size of a large multi-frame object

PARSE_ERRORS = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on malformed content: it has no common base for them."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's log and warnings, which quote header values, from leaving the process."""
    settings, logger = pydicom.config.settings, logging.getLogger("pydicom")
    mode, level = settings.reading_validation_mode, logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings.reading_validation_mode = pydicom.config.IGNORE
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            settings.reading_validation_mode = mode
            logger.setLevel(level)


class Bounded(io.BufferedReader):
    """A file that allocates no more than its own size, whatever length an element announces."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None else min(size, self.size))


def find_start(head: bytes) -> int:
    """Return where the elements start behind the DICM mark, by a file's first 132 bytes; 0 without one."""
    return 132 if head[128:132] == b"DICM" else 4 if head[:4] == b"DICM" else 0


def read_meta(stream: BinaryIO) -> dict[int, str]:
    """Return the UIDs and texts of group 2, leaving the stream at the data set's first byte.

    Parsed here because pydicom inflates deflated files without a bound as soon as it sees the syntax.
    """
    found: dict[int, str] = {}
    while True:
        start = stream.tell()
        head = stream.read(8)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            stream.seek(start)
            return found
        element, vr, length = struct.unpack("<2xH2sH", head)
        if vr in {b"OB", b"OW", b"UN", b"SQ", b"UT", b"UC"}:
            (length,) = struct.unpack("<L", stream.read(4))
        if length > 1 << 20:
            raise ValueError("an element of the file meta information is too long")
        value = stream.read(length)
        found[0x00020000 | element] = value.rstrip(b"\0 ").decode("latin-1")


def parse(
    stream: BinaryIO, syntax: str, tags: Collection[int] | None = TAGS
) -> tuple[Dataset, tuple[int, int, int] | None]:
    """Read elements up to the pixels.

    Args:
        stream: At the data set's first byte.
        syntax: Transfer syntax UID.
        tags: Which elements; None for all.

    Returns:
        The header, and of the pixel element its tag, its length and the offset of its value (-1 where the
        file is deflated or the value encapsulated); None if the file has no pixels.
    """
    if is_deflated := syntax == DEFLATED:
        stream = io.BytesIO(inflate(stream.read(), MAX_HEADER_BYTES))
    found: list[tuple[int, int, int]] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag not in PIXEL_ELEMENTS:
            return False
        found.append((int(tag), length, stream.tell()))
        return True

    header = read_dataset(
        stream,
        syntax == IMPLICIT,
        syntax != BIG_ENDIAN,
        stop_when=at_pixels,
        specific_tags=None if tags is None else list(tags),
    )
    if not found:
        return header, None
    tag, length, offset = found[0]
    is_plain = length != 0xFFFFFFFF and syntax in NATIVE and not is_deflated
    return header, (tag, length if length != 0xFFFFFFFF else -1, offset if is_plain else -1)
