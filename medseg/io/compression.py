"""Bytes of a file, decompressed as they are asked for and verified to the end.

A truncated stream, a wrong checksum and a stream that goes on after its content are errors here; common
readers return zeros, nothing, or the content without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from isal import isal_zlib

from medseg.core.errors import FormatError

PLAIN, DEFLATED = 0, 47  # 47: gzip or zlib, told apart by the first bytes (zlib manual, inflateInit2)
GZIP_FRAME = 31  # deflate with gzip's header and checksum
GZIP_MAGIC = b"\x1f\x8b"

_PIECE = 1 << 18  # compressed bytes handed over at once; what is left of them is copied at every step
_MAX_PADDING = 1 << 20  # zeros after the content are padding; more than this is not
_DAMAGED = cast(type[Exception], isal_zlib.error)  # typed as an instance in isal's stubs
_AGAIN = "copy or export the file again; it is damaged or incomplete"


class Stream:
    """Reads forward through bytes that may be compressed.

    Args:
        data: The file, or its first part where only the header is wanted.
        wbits: `PLAIN`, or `DEFLATED` for zlib and gzip, also of several members.
        prefix: First word of the error codes.
    """

    def __init__(self, data: bytes | memoryview, wbits: int, prefix: str) -> None:
        self._data = memoryview(data)  # not yet handed to the decompressor
        self._tail = b""  # handed over, but beyond the asked count
        self._prefix = prefix
        self._wbits = wbits
        self._inflate = isal_zlib.decompressobj(wbits=wbits) if wbits else None

    def take(self, count: int) -> bytearray:
        """Return exactly `count` bytes, in memory that numpy may write to.

        The caller has checked `count` against the size of the file, since the memory is taken at once.

        Raises:
            FormatError: *_TRUNCATED, *_CRC or *_TRAILING.
        """
        taken = bytearray(count)
        at = 0
        while at < count:
            part = self._take_some(count - at)
            if not part:
                raise self._error("TRUNCATED", f"the file ends {count - at} bytes too early")
            taken[at : at + len(part)] = part
            at += len(part)
        return taken

    def skip(self, count: int) -> None:
        """Pass over exactly `count` bytes without holding them all."""
        while count:
            count -= len(self.take(min(count, 1 << 24)))

    def finish(self) -> None:
        """Verify that the stream ends here, whole; zeros that pad it are ignored.

        Raises:
            FormatError: *_TRUNCATED, *_CRC or *_TRAILING.
        """
        padding = 0
        while part := self._take_some(_PIECE):
            padding += len(part)
            if padding > _MAX_PADDING or part.strip(b"\0"):
                raise self._error("TRAILING", "the file goes on after the voxels that its header describes")

    def _take_some(self, count: int) -> bytes:
        """Return at most `count` bytes; none at the end."""
        if self._inflate is None:
            part = bytes(self._data[: min(count, _PIECE)])
            self._data = self._data[len(part) :]
            return part
        while not self._inflate.eof or self._start_next_member():
            part = self._decompress(count)
            if part:
                return part
            if not (self._inflate.eof or self._tail or self._data):
                raise self._error("TRUNCATED", "the compressed stream breaks off before its end")
        return b""

    def _decompress(self, count: int) -> bytes:
        piece = self._tail or self._next_piece()
        assert self._inflate is not None
        try:
            part: bytes = self._inflate.decompress(piece, count)
        except _DAMAGED as error:
            raise self._error("CRC", f"the compressed stream is damaged ({error})") from error
        self._tail = self._inflate.unconsumed_tail
        return part

    def _start_next_member(self) -> bool:
        assert self._inflate is not None
        left: bytes = self._inflate.unused_data
        if len(left) < len(GZIP_MAGIC):
            left += self._next_piece()
        if not left.startswith(GZIP_MAGIC):
            if (left + bytes(self._data)).strip(b"\0"):
                raise self._error("TRAILING", "other bytes follow the end of the compressed stream")
            return False
        self._inflate = isal_zlib.decompressobj(wbits=self._wbits)
        self._tail = left
        return True

    def _next_piece(self) -> bytes:
        piece = bytes(self._data[:_PIECE])
        self._data = self._data[_PIECE:]
        return piece

    def _error(self, code: str, message: str) -> FormatError:
        return FormatError(message, hint=_AGAIN, code=f"{self._prefix}_{code}")


def compress_into(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write pieces as one gzip file, fast and reproducible: no time and no file name in the header."""
    deflate = isal_zlib.compressobj(1, isal_zlib.DEFLATED, GZIP_FRAME)
    with path.open("wb") as stream:
        for piece in pieces:
            stream.write(deflate.compress(piece))
        stream.write(deflate.flush())
