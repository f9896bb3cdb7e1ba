"""How a file stores its pixels, and what makes that impossible, absurd or incomplete."""

from __future__ import annotations

from pydicom.dataset import Dataset

from medseg.core.errors import DataError, FormatError
from medseg.io.dicom.pixels.codecs import CODECS
from medseg.io.dicom.pixels.decode import missing_decoder
from medseg.io.dicom.scan import Pixels
from medseg.io.dicom.tags import PIXEL_ELEMENTS, integer, text
from medseg.io.safety import max_image_bytes

IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = {IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN, DEFLATED}
MAX_FRAME_PIXELS = 1 << 28  # 16384 x 16384


def read_layout(header: Dataset, syntax: str, found: tuple[int, int, int]) -> Pixels:
    """Return how a file stores its pixels; -1 where a value that must be there is missing or no number.

    Args:
        header: The parsed elements.
        syntax: Transfer syntax UID.
        found: Tag, length and offset of the pixel element, from `parse`.
    """
    tag, length, offset = found
    allocated = integer(header, "BitsAllocated", -1)
    stored = integer(header, "BitsStored", -1)
    kind = PIXEL_ELEMENTS[tag]
    bits = {"float": 32, "double": 64}.get(kind, 0)
    sign = integer(header, "PixelRepresentation", -1)
    if kind == "integer" and sign not in {0, 1}:
        allocated = -1  # whether values are signed is not guessed
    return Pixels(
        syntax=syntax,
        offset=offset,
        length=length,
        rows=integer(header, "Rows", 0),
        columns=integer(header, "Columns", 0),
        frames=integer(header, "NumberOfFrames", 1),
        samples=integer(header, "SamplesPerPixel", -1),
        bits_allocated=bits or allocated,
        bits_stored=bits or stored,
        high_bit=bits - 1 if bits else integer(header, "HighBit", stored - 1),
        is_signed=sign == 1,
        photometric=text(header, "PhotometricInterpretation").upper(),
        kind=kind,
    )


def check_layout(pixels: Pixels, size: int) -> DataError | None:
    """Say what makes these pixels impossible, absurd or incomplete; nothing has been allocated yet.

    Args:
        pixels: What the header says.
        size: Bytes of the file.
    """
    p = pixels
    if p.rows < 1 or p.columns < 1 or p.frames < 1 or p.samples < 1:
        return _header(f"{p.rows} rows, {p.columns} columns, {p.frames} frames, {p.samples} samples a pixel")
    if not p.photometric:
        return _header("no PhotometricInterpretation")
    whole_bytes = p.bits_allocated in {8, 16, 32, 64} or (p.bits_allocated == 1 and p.bits_stored == 1)
    if not whole_bytes or not 1 <= p.bits_stored <= p.bits_allocated:
        return _header(f"{p.bits_stored} bits stored in {p.bits_allocated} allocated, or no sign")
    if not p.bits_stored - 1 <= p.high_bit < p.bits_allocated:
        return _header(f"high bit {p.high_bit} for {p.bits_stored} of {p.bits_allocated} bits")
    frame = p.rows * p.columns
    claimed = frame * p.frames * p.samples * p.bits_allocated // 8
    if frame > MAX_FRAME_PIXELS or claimed > max_image_bytes():
        return FormatError(
            f"the header claims {p.frames} frames of {p.rows} x {p.columns} pixels, {claimed} bytes",
            hint="the header is probably damaged; if it is not, raise MEDSEG_MAX_IMAGE_GB",
            code="DICOM_TOO_LARGE",
        )
    there = min(p.length, size - p.offset) if p.offset >= 0 else p.length
    needed = -(-frame * p.frames * p.samples * p.bits_allocated // 8)
    if p.photometric == "YBR_FULL_422" and p.samples == 3:
        needed = needed * 2 // 3
    if p.length < 0 and p.syntax not in NATIVE:
        there, needed = size, 8 * p.frames  # every frame is an item with a head of 8 bytes
    if p.syntax not in NATIVE and p.syntax not in CODECS:
        return missing_decoder(p.syntax)
    if p.length >= 0 and p.syntax not in NATIVE:
        return _header("compressed pixel data without fragments")
    if there < needed:
        return FormatError(
            f"a file holds {max(there, 0)} bytes of pixel data where its header asks for {needed}",
            hint="the file was cut off; export it again",
            code="DICOM_TRUNCATED",
        )
    return None


def _header(what: str) -> FormatError:
    return FormatError(f"a header is impossible: {what}", hint="export the series again", code="DICOM_HEADER")
