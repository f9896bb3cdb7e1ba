"""Bytes and decoded values as the pixels that the header describes: type, bit order, unused bits, sign.

A pixel has `bits_allocated` bits, of which the `bits_stored` below and including `high_bit` are its value
(PS3.5 8.1.1). The others should be zero or continue the sign; old files keep overlays there, so they are
masked, and what was there is told as DICOM_HIGH_BITS.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import FormatError
from medseg.io.dicom.scan import Pixels

HIGH_BITS = "DICOM_HIGH_BITS"
BIG_ENDIAN = "1.2.840.10008.1.2.2"


class Order(NamedTuple):
    """How the bytes of uncompressed pixels are ordered.

    Args:
        is_big: Most significant byte first.
        is_paired: Bytes of 8 bit pixels lie in 16 bit words, so that big endian swaps neighbours.
    """

    is_big: bool = False
    is_paired: bool = False


LITTLE = Order()


def find_dtype(pixels: Pixels) -> np.dtype[Any]:
    """Return the native type that holds the stored values.

    Raises:
        FormatError: DICOM_HEADER, for a number of bits that there is no type for.
    """
    if pixels.kind != "integer":
        return np.dtype(np.float32 if pixels.kind == "float" else np.float64)
    if pixels.bits_allocated == 1:
        return np.dtype(np.uint8)
    if pixels.bits_allocated not in {8, 16, 32}:
        raise FormatError(
            f"{pixels.bits_allocated} bits allocated for a pixel; 1, 8, 16 and 32 can be read",
            hint="export the series again",
            code="DICOM_HEADER",
        )
    return np.dtype(f"{'i' if pixels.is_signed else 'u'}{pixels.bits_allocated // 8}")


def locate(pixels: Pixels, index: int, order: Order = LITTLE) -> tuple[int, int]:
    """Return first and end byte of a frame in uncompressed pixel data, whole words where bytes are paired.

    Frames of 1 bit a pixel follow each other without gap, so they share bytes with their neighbours.
    """
    bits = count_bits(pixels)
    start, end = index * bits // 8, -(-(index + 1) * bits // 8)
    return (start - start % 2, end + end % 2) if order.is_paired else (start, end)


def count_bits(pixels: Pixels) -> int:
    """Return the bits of one uncompressed frame."""
    depth = pixels.bits_allocated if pixels.kind == "integer" else 32 if pixels.kind == "float" else 64
    return pixels.rows * pixels.columns * pixels.samples * depth


def interpret(
    data: NDArray[np.uint8], pixels: Pixels, index: int, order: Order, notes: set[str]
) -> NDArray[Any]:
    """Return (rows, columns) of the bytes that `locate` names; they may be written to.

    Args:
        data: (n,) bytes.
        pixels: How they are stored.
        index: Number of the frame.
        order: Order of bytes.
        notes: Gets DICOM_HIGH_BITS where unused bits were in use.
    """
    if order.is_paired:
        data = data.reshape(-1, 2)[:, ::-1].reshape(-1)
    shape = pixels.rows, pixels.columns
    bits = count_bits(pixels)
    if pixels.kind == "integer" and pixels.bits_allocated == 1:
        skipped = index * bits - 8 * locate(pixels, index, order)[0]
        return np.unpackbits(data, bitorder="little")[skipped : skipped + bits].reshape(shape)
    dtype = find_dtype(pixels)
    skipped = index * bits // 8 - locate(pixels, index, order)[0]
    words = data[skipped : skipped + bits // 8].view(dtype.newbyteorder(">" if order.is_big else "<"))
    words = words.astype(dtype, copy=False).reshape(shape)
    return clean(words, pixels, notes) if pixels.kind == "integer" else words


def adopt(
    values: NDArray[Any], precision: int, pixels: Pixels, notes: set[str], *, is_lossless: bool
) -> NDArray[Any]:
    """Bring a codec's values to the type that the header declares.

    JPEG, JPEG-LS and RLE know no sign, and encoders of JPEG 2000 forget it: where stream and header differ,
    the bits of the stream are a two's complement pattern. That holds where the stream has as many bits as
    the header; else a value that could be meant in two ways is refused.

    Args:
        values: (rows, columns), signed as the stream says.
        precision: Bits of a value in the stream.
        pixels: What the header says.
        notes: Gets DICOM_HIGH_BITS where unused bits were in use.
        is_lossless: Whether unused bits can be anything but an overshoot of the compression.

    Raises:
        FormatError: DICOM_DECODE.
    """
    dtype = find_dtype(pixels)
    low, high = int(values.min()), int(values.max())
    allocated = max(pixels.bits_allocated, 8)
    differs = False
    if low < 0 and not pixels.is_signed:
        if precision not in (pixels.high_bit + 1, pixels.bits_allocated):
            raise _ambiguous(precision, pixels)
        values, differs = values.astype(np.int64) & ((1 << precision) - 1), True
    elif pixels.is_signed and values.dtype.kind == "u" and high >> (precision - 1):
        if not pixels.high_bit < precision <= pixels.bits_allocated:
            raise _ambiguous(precision, pixels)
        differs = True
    elif not np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max:
        raise FormatError(
            f"the stream holds values of {precision} bits where the header allocates {allocated}",
            hint="export the series again, uncompressed",
            code="DICOM_DECODE",
        )
    words = values.astype(f"u{dtype.itemsize}").view(dtype) if differs else values.astype(dtype)
    return clean(words, pixels, notes) if is_lossless or differs else words


def clean(words: NDArray[Any], pixels: Pixels, notes: set[str]) -> NDArray[Any]:
    """Return the stored bits of each pixel as its value; the same array where nothing is to be done.

    Unused bits are in order where they are all zero, or all negative values of the frame continue their sign.
    """
    stored, shift = pixels.bits_stored, pixels.high_bit + 1 - pixels.bits_stored
    if stored >= 8 * words.dtype.itemsize or not words.size:
        return words
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if pixels.is_signed else (0, (1 << stored) - 1)
    if not shift and low <= words.min() and words.max() <= high:
        return words
    raw = words.view(f"u{words.dtype.itemsize}")
    above = 8 * words.dtype.itemsize - pixels.high_bit - 1
    values = (raw << above).view(words.dtype) >> (above + shift)  # of signed integers: the sign moves down
    plain = raw << above >> (above + shift) << shift  # unused bits zero
    if not ((raw == plain).all() or (raw == (values << shift).view(raw.dtype)).all()):
        notes.add(HIGH_BITS)
    return np.asarray(values)


def _ambiguous(precision: int, pixels: Pixels) -> FormatError:
    return FormatError(
        f"the stream has {precision} bits a pixel and the header {pixels.bits_stored}, and they disagree "
        "about the sign",
        hint="export the series again, uncompressed",
        code="DICOM_DECODE",
    )
