"""The process that decodes compressed frames, so that a hostile stream can end only this one.

`python -m medseg.io.dicom.pixels.worker`, started by decoder.py. A request is a line of JSON on stdin: path,
number of the frame, layout of the pixels, CPU time that it and all frames before may take. The reply on
stdout is a line of JSON and the bytes that it announces, or an error. Nothing else of a file leaves this
process; what libraries print is dropped.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from medseg.core.errors import FormatError, MedsegError
from medseg.io.dicom.elements import quiet, read_meta
from medseg.io.dicom.pixels.codecs import CODECS, refuse
from medseg.io.dicom.pixels.decode import DEFLATED, check_length, inflate, missing_decoder
from medseg.io.dicom.pixels.fragments import Span, find_frames, read_spans
from medseg.io.dicom.pixels.stored import count_bits, locate
from medseg.io.dicom.scan import Pixels
from medseg.io.dicom.tags import PIXEL_ELEMENTS

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

MEMORY_BYTES = 1 << 30  # beside what a frame needs: libraries, headers, a compressed frame
BYTES_PER_PIXEL = 32  # OpenJPEG works with several 32 bit planes; GDCM's Python hands over UCS-2
HEADER_BYTES = 1 << 26  # of a deflated data set, beside the pixels

_NO_OTHERS: list[BaseTag | int] = [0x00080005]  # an empty list would mean all elements

Reply = tuple[dict[str, Any], bytes]


class Request(NamedTuple):
    """A frame to decode, and the CPU time that this and all frames before may take."""

    path: Path
    frame: int
    pixels: Pixels
    seconds: float


class Reader:
    """Reads frames of one file after another, keeping what it knows of the last one."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._spans: list[list[Span]] = []
        self._inflated = b""

    def decode(self, path: Path, index: int, pixels: Pixels) -> Reply:
        """Return the reply that holds a frame: values with their precision, or bytes of a deflated file."""
        with path.open("rb") as stream:
            if path != self._path:
                self._path = None
                with quiet():
                    self._open(stream, pixels)
                self._path = path
            if pixels.syntax == DEFLATED:
                start, end = locate(pixels, index)
                data = self._inflated[start:end]
                return {"bytes": len(data)}, data
            compressed = read_spans(stream, self._spans[index])
        values = CODECS[pixels.syntax].decode(compressed, pixels)
        array = np.ascontiguousarray(values.array)
        if array.shape != (pixels.rows, pixels.columns):
            raise refuse(f"the decoder gives {array.shape} for {pixels.rows} x {pixels.columns} pixels")
        data = array.tobytes()
        return {"bytes": len(data), "dtype": array.dtype.str, "precision": values.precision}, data

    def _open(self, stream: BinaryIO, pixels: Pixels) -> None:
        """Find the pixel element; of a deflated file, hold its bytes."""
        head = stream.read(132)
        stream.seek(132 if head[128:] == b"DICM" else 4 if head[:4] == b"DICM" else 0)
        read_meta(stream)
        self._inflated, self._spans = b"", []
        if pixels.syntax != DEFLATED:
            read_dataset(stream, False, True, stop_when=_is_pixels, specific_tags=_NO_OTHERS)
            self._spans = find_frames(stream, os.fstat(stream.fileno()).st_size, pixels.frames)
            return
        whole = -(-count_bits(pixels) * pixels.frames // 8)
        data = inflate(stream.read(), whole + HEADER_BYTES)
        header = read_dataset(io.BytesIO(data), False, True, specific_tags=list(PIXEL_ELEMENTS))
        elements = [header[tag] for tag in PIXEL_ELEMENTS if tag in header]
        if len(elements) != 1:
            raise refuse(f"{len(elements)} pixel elements in a file")
        self._inflated = bytes(elements[0].value)
        check_length(len(self._inflated), self._inflated[whole:], pixels)


def serve(
    requests: Iterable[bytes],
    replies: BinaryIO,
    *,
    confine: Callable[[Request], None] = lambda request: None,
    listen: Callable[[], bytes] = lambda: b"",
) -> None:
    """Answer requests until there are no more.

    Args:
        requests: Lines of JSON.
        replies: Gets a line of JSON a request, and bytes.
        confine: Sets limits for a frame.
        listen: Returns what libraries printed since the last call.

    A library that raises something of its own ends the process: that is the answer.
    """
    reader = Reader()
    for line in requests:
        request = _parse(line)
        listen()
        confine(request)
        try:
            reply, data = reader.decode(request.path, request.frame, request.pixels)
            if b"Corrupt JPEG data" in listen():  # libjpeg's words; it fills the picture up and goes on
                raise refuse("the decoder finds the stream corrupt")
        except MedsegError as error:
            reply, data = {"code": error.code, "message": error.message, "hint": error.hint}, b""
        except ImportError:
            reply, data = _describe(missing_decoder(request.pixels.syntax)), b""
        except MemoryError:
            reply, data = _describe(refuse("decoding a frame takes more memory than its size explains")), b""
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.write(data)
        replies.flush()


def main() -> None:
    """Set limits that last, silence the libraries, say that all is imported, and serve."""
    replies = os.fdopen(os.dup(1), "wb")
    heard, said = os.pipe()
    os.set_blocking(heard, False)
    os.set_blocking(said, False)  # what does not fit is lost, not waited for
    os.dup2(said, 1)
    os.dup2(said, 2)

    def listen() -> bytes:
        try:
            return os.read(heard, 1 << 16)
        except BlockingIOError:
            return b""

    limits = Limits()
    replies.write(b"{}\n")
    replies.flush()
    serve(sys.stdin.buffer, replies, confine=limits.set, listen=listen)


def _is_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag in PIXEL_ELEMENTS


def _parse(line: bytes) -> Request:
    request = json.loads(line)
    return Request(
        Path(request["path"]), request["index"], Pixels(**request["pixels"]), float(request["seconds"])
    )


def _describe(error: FormatError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


class Limits:
    """Bounds memory by what a frame needs, and CPU time; files are not written and no core is dumped."""

    def __init__(self) -> None:
        self._started_s = sum(os.times()[:2])
        _set_limit("RLIMIT_CORE", 0)
        _set_limit("RLIMIT_FSIZE", 0)

    def set(self, request: Request) -> None:
        """Set the limits for a frame."""
        pixels = request.pixels
        need = MEMORY_BYTES + BYTES_PER_PIXEL * pixels.rows * pixels.columns
        if pixels.syntax == DEFLATED:
            need += 4 * (count_bits(pixels) * pixels.frames // 8 + HEADER_BYTES)
        _set_limit("RLIMIT_AS", _held_bytes() + need)
        _set_limit("RLIMIT_CPU", math.ceil(self._started_s + request.seconds))


def _held_bytes() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 1 << 30


def _set_limit(name: str, value: int) -> None:
    """Set a soft limit where the system has it; the hard one stays, so that a larger frame may follow."""
    if resource is None or not hasattr(resource, name):
        return
    number = getattr(resource, name)
    hard = resource.getrlimit(number)[1]
    try:
        resource.setrlimit(number, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    except (ValueError, OSError):  # macOS refuses some limits
        return


if __name__ == "__main__":
    main()
