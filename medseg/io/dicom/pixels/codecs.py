"""Compressed streams of one frame, and the library that decodes each.

Run by worker.py only: these are C and C++ libraries that hostile bytes can crash or keep busy. What a
stream says of its own size is compared with the header before a library sees it, and that it has an end,
since some libraries fill a picture up in silence.

RLE is decoded here; the JPEG family of 1992, also lossless and with 12 bits, by GDCM; JPEG-LS by CharLS;
JPEG 2000 and its high-throughput variant by OpenJPEG. Pillow would do for 8 bits, but says nothing of
corrupt data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import FormatError
from medseg.io.dicom.scan import Pixels

JPEG_START, J2K_START, END = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\xff\xd9"
_START_OF_SCAN, _SCAN_FREE = 0xDA, {0x01, *range(0xD0, 0xD8)}
_FRAME_HEADERS = {0xC0, 0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7}
_PADDING = 16  # bytes that may follow the end of a stream


class Values(NamedTuple):
    """A decoded frame.

    Args:
        array: (rows, columns) of the smallest little endian integer that holds them.
        precision: Bits of a value in the stream.
    """

    array: NDArray[Any]
    precision: int


@dataclass(frozen=True)
class Codec:
    """How one transfer syntax is decoded.

    Args:
        module: What must be importable.
        package: What to install for it.
        decode: (stream, pixels) -> Values.
    """

    module: str
    package: str
    decode: Callable[[bytes, Pixels], Values]
    is_lossless: bool = True


def decode_rle(stream: bytes, pixels: Pixels) -> Values:
    """Decode run-length segments, one for each byte of a pixel, the most significant first (PS3.5 annex G).

    The segments say nothing of rows and columns: that they end with the last pixel is the only check.
    """
    depth, count = max(pixels.bits_allocated, 8) // 8, pixels.rows * pixels.columns
    if len(stream) < 64:
        raise refuse("the run-length stream has no header")
    segments, *starts = struct.unpack_from("<16L", stream)
    ends = [*starts[1:depth], len(stream)]
    if segments != depth or starts[0] != 64 or sorted(ends) != ends:
        raise refuse(f"the run-length stream has no {depth} segments in order")
    planes = np.empty((count, depth), np.uint8)
    for number, (start, end) in enumerate(zip(starts, ends)):
        planes[:, depth - 1 - number] = np.frombuffer(_expand(stream[start:end], count), np.uint8)
    return Values(planes.view(f"<u{depth}").reshape(pixels.rows, pixels.columns), 8 * depth)


def _expand(segment: bytes, count: int) -> bytes:
    """Return `count` bytes of PackBits; a byte more in the end is padding."""
    parts, at, left = [], 0, count
    while left > 0:
        if at + 2 > len(segment):
            raise refuse(f"a run-length segment ends {left} pixels too early")
        head = segment[at]
        if head == 128:  # says nothing
            at += 1
            continue
        part = segment[at + 1 : at + 2 + head] if head < 128 else segment[at + 1 : at + 2] * (257 - head)
        at += 2 + head if head < 128 else 2
        parts.append(part)
        left -= len(part)
    if left < -1 or len(segment) - at > 2:
        raise refuse(f"a run-length segment goes on after {count} pixels")
    return b"".join(parts)[:count]


def decode_jpeg(stream: bytes, pixels: Pixels) -> Values:
    """Decode sequential and lossless JPEG of 2 to 16 bits."""
    import gdcm

    kind, precision = read_frame_header(stream, pixels)
    if kind not in _KINDS[pixels.syntax]:
        raise refuse("the stream is of another kind of JPEG than the header says")
    bits = 8 if precision <= 8 else 16
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(stream)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((pixels.columns, pixels.rows, 1))
    image.SetDataElement(element)
    gray = gdcm.PhotometricInterpretation.MONOCHROME2
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gray))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(pixels.syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(1, bits, bits, bits - 1, 0))
    data = image.GetBuffer()  # the bytes as a str, or None
    if data is None:
        raise refuse("the decoder refuses the stream")
    return Values(_shape(data.encode("utf-8", "surrogateescape"), f"<u{bits // 8}", pixels), precision)


def decode_jpeg_ls(stream: bytes, pixels: Pixels) -> Values:
    """Decode JPEG-LS, whose values are never signed."""
    import jpeg_ls

    kind, precision = read_frame_header(stream, pixels)
    if kind != 0xF7:
        raise refuse("the stream is no JPEG-LS")
    data, _ = jpeg_ls.decode_pixel_data(stream)
    return Values(_shape(data, "<u1" if precision <= 8 else "<u2", pixels), precision)


def decode_jpeg_2000(stream: bytes, pixels: Pixels) -> Values:
    """Decode JPEG 2000 and HTJ2K; boxes that a file format puts around the codestream are not looked at."""
    from openjpeg.utils import decode

    start = stream.find(J2K_START, 0, 1 << 12)
    if start < 0 or len(stream) < start + 45:
        raise refuse("the stream is no JPEG 2000")
    # ISO 15444-1, A.5.1: capabilities, size, offset, tiles, their offset, components, precision, sampling
    _, width, height, left, top, *_, components = struct.unpack_from(">H8LH", stream, start + 6)
    depth, *sampling = struct.unpack_from("3B", stream, start + 42)
    _compare(components, height - top, width - left, pixels)
    if sampling != [1, 1]:
        raise refuse("the stream is subsampled")
    _check_end(stream)
    return Values(decode(stream[start:], j2k_format=0), (depth & 0x7F) + 1)


def read_frame_header(stream: bytes, pixels: Pixels) -> tuple[int, int]:
    """Return the marker of a JPEG's frame header and its precision, the size being that of the pixels.

    Raises:
        FormatError: DICOM_DECODE, DICOM_TRUNCATED or DICOM_COLOUR.
    """
    at = 2
    while stream.startswith(JPEG_START) and at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker in _FRAME_HEADERS and at + 10 <= len(stream):
            precision, height, width, components = struct.unpack_from(">BHHB", stream, at + 4)
            _compare(components, height, width, pixels)
            if not 2 <= precision <= 16:
                raise refuse(f"the stream has {precision} bits a pixel")
            _check_end(stream)
            return marker, precision
        if marker == _START_OF_SCAN:
            break
        is_bare = marker == 0xFF or marker in _SCAN_FREE
        at += (1 if marker == 0xFF else 2) if is_bare else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    raise refuse("the stream is no JPEG")


def refuse(why: str) -> FormatError:
    """Return the error of a stream that is not decoded."""
    return FormatError(why, hint="export the series again, uncompressed", code="DICOM_DECODE")


def _compare(components: int, height: int, width: int, pixels: Pixels) -> None:
    if components != 1:
        raise FormatError(
            f"the compressed pixels have {components} components, an intensity image has one",
            hint="export a gray image",
            code="DICOM_COLOUR",
        )
    if (height, width) != (pixels.rows, pixels.columns):
        raise refuse(
            f"the stream holds {height} x {width} pixels where the header says "
            f"{pixels.rows} x {pixels.columns}"
        )


def _check_end(stream: bytes) -> None:
    if END not in stream[-_PADDING:]:
        raise FormatError(
            f"the compressed stream breaks off after {len(stream)} bytes",
            hint="the file was cut off; export it again",
            code="DICOM_TRUNCATED",
        )


def _shape(data: bytes | bytearray, dtype: str, pixels: Pixels) -> NDArray[Any]:
    if len(data) != pixels.rows * pixels.columns * np.dtype(dtype).itemsize:
        raise refuse(f"the decoder gives {len(data)} bytes for {pixels.rows} x {pixels.columns} pixels")
    return np.frombuffer(data, dtype).reshape(pixels.rows, pixels.columns)


_RLE = Codec("numpy", "numpy", decode_rle)
_LOSSLESS = Codec("gdcm", "python-gdcm", decode_jpeg)
_DCT = Codec("gdcm", "python-gdcm", decode_jpeg, is_lossless=False)
_JPEG_LS = Codec("jpeg_ls", "pyjpegls", decode_jpeg_ls)
_NEAR = Codec("jpeg_ls", "pyjpegls", decode_jpeg_ls, is_lossless=False)
_J2K = Codec("openjpeg", "pylibjpeg-openjpeg", decode_jpeg_2000)
_J2K_LOSSY = Codec("openjpeg", "pylibjpeg-openjpeg", decode_jpeg_2000, is_lossless=False)

CODECS: dict[str, Codec] = {
    "1.2.840.10008.1.2.5": _RLE,
    "1.2.840.10008.1.2.4.50": _DCT,  # JPEG baseline, 8 bits
    "1.2.840.10008.1.2.4.51": _DCT,  # JPEG extended, 8 or 12 bits
    "1.2.840.10008.1.2.4.57": _LOSSLESS,  # JPEG lossless, any predictor
    "1.2.840.10008.1.2.4.70": _LOSSLESS,  # JPEG lossless, predictor 1
    "1.2.840.10008.1.2.4.80": _JPEG_LS,
    "1.2.840.10008.1.2.4.81": _NEAR,
    "1.2.840.10008.1.2.4.90": _J2K,
    "1.2.840.10008.1.2.4.91": _J2K_LOSSY,
    "1.2.840.10008.1.2.4.201": _J2K,  # HTJ2K
    "1.2.840.10008.1.2.4.202": _J2K,  # HTJ2K, resolutions first
    "1.2.840.10008.1.2.4.203": _J2K_LOSSY,
}
_KINDS = {  # frame headers of sequential DCT are SOF0 and SOF1, of lossless SOF3
    "1.2.840.10008.1.2.4.50": {0xC0, 0xC1},
    "1.2.840.10008.1.2.4.51": {0xC0, 0xC1},
    "1.2.840.10008.1.2.4.57": {0xC3},
    "1.2.840.10008.1.2.4.70": {0xC3},
}
