"""Compresses single frames for test files, one function a codec; `compress` chooses by transfer syntax."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import get_encoder
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
)

MIN_J2K = 32
"""OpenJPEG halves a picture five times; smaller ones it refuses to write."""


def compress(frame: NDArray[Any], syntax: str, stored_bits: int) -> bytes:
    """Compress (rows, columns) of the stored integer type, signed or not."""
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        return compress_jpeg_lossless(frame, stored_bits)
    if syntax in (JPEG2000Lossless, JPEG2000):
        return compress_j2k(frame, stored_bits, lossy=syntax == JPEG2000)
    encoder = get_encoder(UID(syntax))
    options = {
        "rows": frame.shape[0],
        "columns": frame.shape[1],
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": frame.itemsize * 8,
        "bits_stored": stored_bits,
        "pixel_representation": int(frame.dtype.kind == "i"),
        "photometric_interpretation": "MONOCHROME2",
    }
    plugin = "pydicom" if syntax == RLELossless else "pyjpegls"
    return encoder.encode(np.ascontiguousarray(frame), encoding_plugin=plugin, **options)


def compress_j2k(frame: NDArray[Any], stored_bits: int, *, lossy: bool) -> bytes:
    from openjpeg.utils import encode_array

    ratios = [4.0] if lossy else None
    return bytes(encode_array(np.ascontiguousarray(frame), stored_bits, 2, False, ratios))


def compress_jpeg_lossless(frame: NDArray[Any], stored_bits: int) -> bytes:
    """Write process 14 with the left neighbour as predictor (ITU-T T.81, annex H), all codes 5 bits long."""
    rows, columns = frame.shape
    values = frame.astype(np.int64) & (2**stored_bits - 1)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 2 ** (stored_bits - 1)
    # Differences are taken modulo 2^16 (H.1.2.1): -32768 and 32768 are one.
    differences = (values - predicted + 32767) % 65536 - 32767
    bits = "".join(_code(int(difference)) for difference in differences.ravel())
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xc3" + struct.pack(">HBHHB3B", 11, stored_bits, rows, columns, 1, 1, 0x11, 0),
            b"\xff\xc4" + struct.pack(">HB", 36, 0) + bytes([0, 0, 0, 0, 17, *[0] * 11]) + bytes(range(17)),
            b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0),
            data,
            b"\xff\xd9",
        ]
    )


def _code(difference: int) -> str:
    """Return the category (5 bits), then the difference in as many bits, one's complement if negative."""
    category = abs(difference).bit_length()
    if category in (0, 16):
        return f"{category:05b}"
    value = difference if difference > 0 else difference + 2**category - 1
    return f"{category:05b}{value:0{category}b}"
