"""Stored values of frames: read from the file where they are uncompressed, else decoded in a process.

Everything is checked against the sizes of the files before anything is allocated.
"""

from __future__ import annotations

import importlib.util
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import DataError, FormatError
from medseg.io.dicom.pixels.codecs import CODECS
from medseg.io.dicom.pixels.decoder import Decoder
from medseg.io.dicom.pixels.stored import (
    BIG_ENDIAN,
    LITTLE,
    Order,
    adopt,
    count_bits,
    find_dtype,
    interpret,
    locate,
)
from medseg.io.dicom.scan import Frame, Instance, Pixels
from medseg.io.safety import max_image_bytes

DEFLATED = "1.2.840.10008.1.2.1.99"
UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", BIG_ENDIAN}
PIXEL_BYTES = 16
"""What a compressed pixel counts towards the size limit of an image: a small file may claim any number of
them, and it is decoded, stored and made float before it is found out."""


def decode_frames(frames: Sequence[Frame], notes: set[str] | None = None) -> Iterator[NDArray[Any]]:
    """Yield the stored values of each frame, before rescaling, in the order asked for.

    Sizes and decoders are checked when this is called, before the first frame is asked for.

    Args:
        frames: Of any files and transfer syntaxes.
        notes: Gets DICOM_HIGH_BITS where bits outside the stored ones were in use, and masked.

    Returns:
        (rows, columns) arrays of uint8, int8, uint16, int16, uint32 or int32 as the header says (1 bit:
        uint8), float32 or float64 for float pixels; native byte order.

    Raises:
        FormatError: DICOM_TRUNCATED, DICOM_TOO_LARGE, DICOM_HEADER, DICOM_DECODER, DICOM_DECODE.
        DataError: DICOM_COLOUR, FILE_MISSING or FILE_UNREADABLE.
        ResourceError: DECODER_START.
    """
    for instance in {id(frame.instance): frame.instance for frame in frames}.values():
        _check(instance)
    claimed = sum(
        pixels.rows * pixels.columns
        for frame in frames
        if (pixels := _pixels(frame)).syntax not in UNCOMPRESSED
    )
    if claimed * PIXEL_BYTES > max_image_bytes():
        raise FormatError(
            f"{len(frames)} compressed frames claim {claimed} pixels",
            hint="a header is probably damaged; if it is not, raise MEDSEG_MAX_IMAGE_GB",
            code="DICOM_TOO_LARGE",
        )
    for frame in frames:
        if not 0 <= frame.index < _pixels(frame).frames:
            raise IndexError(f"frame {frame.index} of {_pixels(frame).frames}")
    return _decode(frames, set() if notes is None else notes)


def _decode(frames: Sequence[Frame], notes: set[str]) -> Iterator[NDArray[Any]]:
    with ExitStack() as stack:
        decoder, reader = stack.enter_context(Decoder()), stack.enter_context(_Reader())
        for frame in frames:
            pixels = _pixels(frame)
            if pixels.syntax in UNCOMPRESSED:
                data, order = reader.read(frame)
                yield interpret(data, pixels, frame.index, order, notes)
            elif pixels.syntax == DEFLATED:
                start, end = locate(pixels, frame.index)
                data = decoder.read_inflated(frame, end - start)
                yield interpret(data, pixels, frame.index, LITTLE, notes)
            else:
                values, precision = decoder.decode(frame)
                is_lossless = CODECS[pixels.syntax].is_lossless
                yield adopt(values, precision, pixels, notes, is_lossless=is_lossless)


class _Reader:
    """Reads uncompressed frames; the file of the last one stays open."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stream: BinaryIO | None = None
        self._order = LITTLE

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def read(self, frame: Frame) -> tuple[NDArray[np.uint8], Order]:
        """Return the bytes that hold a frame, and their order."""
        pixels = _pixels(frame)
        try:
            if self._stream is None or self._path != frame.instance.path:
                self.__exit__()
                self._path, self._stream = frame.instance.path, frame.instance.path.open("rb", buffering=0)
                self._order = _find_order(self._stream, pixels)
                _check_excess(self._stream, pixels)
            start, end = locate(pixels, frame.index, self._order)
            data = np.empty(end - start, np.uint8)
            self._stream.seek(pixels.offset + start)
            count = self._stream.readinto(data)  # type: ignore[attr-defined]
        except OSError as error:
            raise _unreadable(error) from error
        if count != len(data):
            raise _truncated(count, len(data))
        return data, self._order


def inflate(data: bytes, limit: int) -> bytes:
    """Return a deflated data set (PS3.5 A.5) of at most `limit` bytes.

    Raises:
        FormatError: DICOM_TOO_LARGE, DICOM_TRUNCATED or DICOM_DAMAGED.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise FormatError(
            "the deflated data set is damaged", hint="export it again", code="DICOM_DAMAGED"
        ) from error
    if len(inflated) > limit:
        raise FormatError(
            f"the file inflates to more than {limit} bytes",
            hint="export it uncompressed if it is really that large",
            code="DICOM_TOO_LARGE",
        )
    if not stream.eof:
        raise FormatError(
            f"the deflated data set breaks off after {len(inflated)} bytes",
            hint="the file was cut off; export it again",
            code="DICOM_TRUNCATED",
        )
    return inflated


def check_length(there: int, excess: bytes, pixels: Pixels) -> None:
    """Compare the length of uncompressed pixel data with what the header describes.

    Args:
        there: Bytes of pixel data.
        excess: What lies beyond the last frame: zeros of less than a frame are padding.
        pixels: The header.

    Raises:
        FormatError: DICOM_TRUNCATED or DICOM_HEADER.
    """
    needed = -(-count_bits(pixels) * pixels.frames // 8)
    if there < needed:
        raise _truncated(there, needed)
    if there - needed > 1 and (there - needed >= count_bits(pixels) / 8 or excess.strip(b"\0")):
        raise FormatError(
            f"{there} bytes of pixel data where the header describes {needed}",
            hint="rows, columns, frames or bits in the header are wrong; export the series again",
            code="DICOM_HEADER",
        )


def missing_decoder(syntax: str) -> FormatError:
    """Return the error of a transfer syntax that nothing here decodes; it is named in words."""
    from pydicom.uid import UID

    name = UID(syntax).name
    name = "an unknown transfer syntax" if name == syntax else name
    codec = CODECS.get(syntax)
    hint = f"pip install {codec.package}" if codec else "export the series again, uncompressed"
    return FormatError(f"no decoder for {name}", hint=hint, code="DICOM_DECODER")


def _check(instance: Instance) -> None:
    """Refuse a file whose pixels cannot be there or cannot be decoded."""
    pixels = instance.pixels
    assert pixels is not None, "frames are read of files that have pixels"
    if pixels.samples != 1:
        raise DataError(
            f"{pixels.samples} samples a pixel, an intensity image has one",
            hint="export a gray image",
            code="DICOM_COLOUR",
        )
    find_dtype(pixels)
    if pixels.syntax in UNCOMPRESSED:
        _check_uncompressed(instance, pixels)
    elif pixels.syntax != DEFLATED:
        codec = CODECS.get(pixels.syntax)
        if codec is None or importlib.util.find_spec(codec.module) is None:
            raise missing_decoder(pixels.syntax)
        if pixels.kind != "integer":
            raise _undecodable("compressed pixels of floating point")


def _check_uncompressed(instance: Instance, pixels: Pixels) -> None:
    if pixels.offset < 0 or pixels.length < 0:
        raise _undecodable("pixel data in fragments, though the header says that they are uncompressed")
    if pixels.syntax == BIG_ENDIAN and pixels.kind == "integer" and pixels.bits_allocated > 16:
        raise _undecodable(
            f"{pixels.bits_allocated} bit integers in big endian; of these, writers mean different things"
        )
    try:
        size = instance.path.stat().st_size
    except OSError as error:
        raise _unreadable(error) from error
    needed = -(-count_bits(pixels) * pixels.frames // 8)
    there = min(pixels.length, size - pixels.offset)
    if there < needed:
        raise _truncated(max(there, 0), needed)


def _find_order(stream: BinaryIO, pixels: Pixels) -> Order:
    """Return the order of bytes; the element's head, 12 bytes, says whether it holds words."""
    if pixels.syntax != BIG_ENDIAN:
        return LITTLE
    stream.seek(pixels.offset - 8)
    is_of_words = stream.read(2) == b"OW"
    return Order(True, is_of_words and pixels.kind == "integer" and pixels.bits_allocated <= 8)


def _check_excess(stream: BinaryIO, pixels: Pixels) -> None:
    needed = -(-count_bits(pixels) * pixels.frames // 8)
    excess = pixels.length - needed
    if excess > 1:
        stream.seek(pixels.offset + needed)
        at_most = min(excess, count_bits(pixels) // 8)
        check_length(pixels.length, stream.read(at_most), pixels)


def _pixels(frame: Frame) -> Pixels:
    assert frame.instance.pixels is not None
    return frame.instance.pixels


def _truncated(there: int, needed: int) -> FormatError:
    return FormatError(
        f"{there} bytes of pixel data where the header asks for {needed}",
        hint="the file was cut off; export it again",
        code="DICOM_TRUNCATED",
    )


def _undecodable(message: str) -> FormatError:
    return FormatError(message, hint="export the series again as explicit little endian", code="DICOM_DECODE")


def _unreadable(error: OSError) -> DataError:
    return DataError(
        f"a file cannot be read ({os.strerror(error.errno or 0)})",
        hint="check that it is still there, and its permissions",
        code="FILE_MISSING" if isinstance(error, FileNotFoundError) else "FILE_UNREADABLE",
    )
