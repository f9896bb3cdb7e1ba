"""One DICOM file, headers only: what it is, how its pixels are stored, what is wrong with it.

pydicom parses; this module decides what is read of it, bounds it, and turns values that cannot be numbers
into None or NaN, so that the series model sees plain data. The pixel element is located, never read.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pydicom.config
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from medseg.core.errors import DataError, FormatError
from medseg.io.dicom.frames import read_frames
from medseg.io.dicom.pixels import inflate
from medseg.io.dicom.scan import Frame, Instance, Pixels
from medseg.io.dicom.tags import PIXEL_ELEMENTS, TAGS, integer, text, texts
from medseg.io.safety import max_image_bytes

IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED, MEDIA_DIRECTORY = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.3.10"
NATIVE = {IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN, DEFLATED}
LOSSY = {f"1.2.840.10008.1.2.4.{last}" for last in ("50", "51", "81", "91", "203")}
MAX_HEADER_BYTES = 1 << 30  # of an inflated file: the size of a large multi-frame object
MAX_FRAME_PIXELS = 1 << 28  # 16384 x 16384

PARSE_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on malformed content: it has no common base for them."""

FACTS = {
    "units": "Units",
    "laterality": "Laterality",
    "image_laterality": "ImageLaterality",
    "patient_position": "PatientPosition",
    "images_in_acquisition": "ImagesInAcquisition",
    "lossy": "LossyImageCompression",
    "acquisition": "AcquisitionNumber",
    "weight_kg": "PatientWeight",
    "series_date": "SeriesDate",
    "series_time": "SeriesTime",
    "acquisition_date": "AcquisitionDate",
    "acquisition_time": "AcquisitionTime",
    "decay_correction": "DecayCorrection",
    "corrections": "CorrectedImage",
    "manufacturer": "Manufacturer",
}
DOSE_FACTS = {
    "dose_bq": "RadionuclideTotalDose",
    "half_life_s": "RadionuclideHalfLife",
    "injection_time": "RadiopharmaceuticalStartTime",
    "injection": "RadiopharmaceuticalStartDateTime",
}


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


def read_instance(path: Path) -> tuple[Instance, tuple[Frame, ...]] | None:
    """Return what a file's header says, or None if the file is not DICOM (or a DICOMDIR).

    Call it inside `quiet()`.

    Raises:
        FormatError: DICOM_DAMAGED: the file claims to be DICOM and cannot be parsed.
        DataError: FILE_UNREADABLE.
    """
    try:
        with path.open("rb") as stream:
            return _read(path, stream)
    except PARSE_ERRORS as error:
        raise _damaged("its header cannot be parsed") from error
    except OSError as error:
        raise DataError(
            f"a file cannot be read ({error.strerror})",
            hint="check its permissions",
            code="FILE_UNREADABLE",
        ) from error


def _damaged(why: str) -> FormatError:
    return FormatError(f"a file claims to be DICOM, but {why}", hint="export it again", code="DICOM_DAMAGED")


def _read(path: Path, stream: BinaryIO) -> tuple[Instance, tuple[Frame, ...]] | None:
    head = stream.read(132)
    size = os.fstat(stream.fileno()).st_size
    is_part10 = head[128:132] == b"DICM"
    if not is_part10 and not _looks_like_a_dataset(head):
        if not head and path.suffix.lower() in {".dcm", ".ima"}:
            raise _damaged("it is empty")
        return None
    stream.seek(132 if is_part10 else 0)
    meta = read_meta(stream)
    if meta.get(0x00020002) == MEDIA_DIRECTORY or path.name.upper() == "DICOMDIR":
        return None
    syntax = meta.get(0x00020010, IMPLICIT)
    header, found = parse(stream, syntax)
    if not text(header, "SOPClassUID") and "Rows" not in header and not text(header, "Modality"):
        if is_part10 or meta:
            raise _damaged("it ends before it says what it is")
        return None
    instance = describe(path, header, syntax, found, size)
    if instance.error is not None or instance.pixels is None:
        return instance, ()
    try:
        return instance, read_frames(instance, header)
    except DataError as error:
        return replace(instance, error=error), ()


def _looks_like_a_dataset(head: bytes) -> bool:
    """Whether a file without the DICM mark starts as old exports do: with an element of group 2 or 8."""
    if len(head) < 16:
        return False
    group, element, length = struct.unpack("<HHL", head[:8])
    if group not in {2, 8} or element > 0x100:
        return False
    return head[4:6] in {b"UL", b"UI", b"CS", b"DA", b"SH", b"LO", b"OB", b"TM"} or length < 256


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


def parse(stream: BinaryIO, syntax: str) -> tuple[Dataset, tuple[int, int, int] | None]:
    """Read the elements that medseg looks at, up to the pixels.

    Args:
        stream: At the data set's first byte.
        syntax: Transfer syntax UID.

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
        specific_tags=TAGS,
    )
    if not found:
        return header, None
    tag, length, offset = found[0]
    is_plain = length != 0xFFFFFFFF and syntax in NATIVE and not is_deflated
    return header, (tag, length if length != 0xFFFFFFFF else -1, offset if is_plain else -1)


def describe(
    path: Path, header: Dataset, syntax: str, found: tuple[int, int, int] | None, size: int
) -> Instance:
    """Return a file's identity, pixel layout and facts; what is wrong with its pixels becomes its error."""
    pixels = _layout(header, syntax, found) if found else None
    references = {
        str(item.value)
        for sequence in ("ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence")
        if sequence in header
        for item in _walk_uids(header[sequence].value, "SeriesInstanceUID")
    }
    facts = {name: text(header, keyword) for name, keyword in FACTS.items() if keyword in header}
    facts["lossy"] = "01" if syntax in LOSSY else facts.get("lossy", "")
    facts["references"] = " ".join(sorted(references))
    facts["frame_of_reference"] = text(header, "FrameOfReferenceUID")
    if "ModalityLUTSequence" in header:
        facts["lut"] = "yes"
    doses = header.get("RadiopharmaceuticalInformationSequence") or []
    if len(doses) == 1:
        facts |= {name: text(doses[0], keyword) for name, keyword in DOSE_FACTS.items()}
    instance = Instance(
        path=path,
        patient=text(header, "PatientID") or text(header, "PatientName"),
        study=text(header, "StudyInstanceUID"),
        series=text(header, "SeriesInstanceUID"),
        sop_class=text(header, "SOPClassUID"),
        sop_instance=text(header, "SOPInstanceUID"),
        modality=text(header, "Modality"),
        image_type=texts(header, "ImageType"),
        pixels=pixels,
        facts=facts,
    )
    if pixels is not None:
        return replace(instance, error=check_layout(pixels, size))
    is_cut = "Rows" in header or "ImagePositionPatient" in header
    return replace(instance, error=_no_pixels() if is_cut else None)


def _walk_uids(items: Any, keyword: str) -> Iterator[Any]:
    for item in items or []:
        for element in item:
            if element.VR == "SQ":
                yield from _walk_uids(element.value, keyword)
            elif element.keyword == keyword:
                yield element


def _no_pixels() -> FormatError:
    return FormatError(
        "a file of the series ends before its pixel data", hint="export it again", code="DICOM_TRUNCATED"
    )


def _layout(header: Dataset, syntax: str, found: tuple[int, int, int]) -> Pixels:
    tag, length, offset = found
    allocated = integer(header, "BitsAllocated", 16)
    stored = integer(header, "BitsStored", allocated)
    kind = PIXEL_ELEMENTS[tag]
    return Pixels(
        syntax=syntax,
        offset=offset,
        length=length,
        rows=integer(header, "Rows", 0),
        columns=integer(header, "Columns", 0),
        frames=integer(header, "NumberOfFrames", 1),
        samples=integer(header, "SamplesPerPixel", 1),
        bits_allocated={"float": 32, "double": 64}.get(kind, allocated),
        bits_stored={"float": 32, "double": 64}.get(kind, stored),
        high_bit=integer(header, "HighBit", stored - 1),
        is_signed=integer(header, "PixelRepresentation", 0) == 1,
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
        return _header(f"{p.bits_stored} bits stored in {p.bits_allocated} allocated")
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

