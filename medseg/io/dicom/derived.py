"""Objects that were derived from a series (structure sets, segmentations), read completely or not at all.

pydicom passes over the end of a file that was cut off: structures would be missing without a word. Here
every element has the length it announces, or the file is refused.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom.config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from medseg.core.errors import DataError, FormatError
from medseg.io.dicom.header import MAX_HEADER_BYTES, PARSE_ERRORS, describe, quiet, read_meta
from medseg.io.dicom.layout import BIG_ENDIAN, DEFLATED, IMPLICIT, NATIVE
from medseg.io.dicom.pixels import inflate
from medseg.io.dicom.scan import Instance
from medseg.io.dicom.tags import PIXEL_ELEMENTS, integer, text

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"  # Supplement 243
KINDS = {RTSTRUCT: "an RT structure set", SEGMENTATION: "a segmentation", LABELMAP: "a segmentation"}
UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True)
class Derived:
    """A label object without its pixels: all elements, and as an instance that pixels can be read from."""

    header: Dataset
    instance: Instance


@contextmanager
def parsing() -> Iterator[None]:
    """Keep pydicom quiet, and turn what it raises on malformed or missing elements into DICOM_DAMAGED."""
    try:
        with quiet():
            yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise _cut_off() from error  # pydicom's own: the end is reached where a sequence goes on
    except (*PARSE_ERRORS, InvalidDicomError, BytesLengthException) as error:
        raise FormatError(
            "the label object lacks an element that it must have, or holds one that cannot be read",
            hint="export it again",
            code="DICOM_DAMAGED",
        ) from error


def read_derived(path: Path, *sop_classes: str) -> Derived:
    """Read every element before the pixels.

    Args:
        path: A DICOM file.
        sop_classes: What it may be.

    Raises:
        FormatError: DICOM_DAMAGED, or LABEL_KIND for another kind of object.
        DataError: FILE_UNREADABLE.
    """
    try:
        with parsing():
            derived = _read(path)
    except OSError as error:
        raise DataError(
            f"the label object cannot be read ({error.strerror})",
            hint="check its permissions",
            code="FILE_UNREADABLE",
        ) from error
    if derived.instance.sop_class not in sop_classes:
        raise FormatError(
            f"the file is not {KINDS[sop_classes[0]]}",
            hint="labels come as RTSTRUCT or SEG; give the file that holds them",
            code="LABEL_KIND",
        )
    return derived


def _cut_off() -> FormatError:
    return FormatError(
        "the label object ends before it is complete", hint="export it again", code="DICOM_DAMAGED"
    )


class _Bounded(io.BufferedReader):
    """A file that allocates no more than its own size, whatever length an element announces."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._bytes = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        return super().read(size if size is None else min(size, self._bytes))


def read_elements(path: Path, keywords: Collection[str]) -> Dataset:
    """Read some elements of any DICOM file; call it inside `parsing()`."""
    tags: list[BaseTag | int] = [tag for word in keywords if (tag := tag_for_keyword(word)) is not None]
    with _Bounded(path) as stream:
        source, syntax = _open(stream)
        return read_dataset(
            source,
            syntax == IMPLICIT,
            syntax != BIG_ENDIAN,
            stop_when=lambda tag, vr, length: tag in PIXEL_ELEMENTS,
            specific_tags=tags,
        )


def _open(stream: BinaryIO) -> tuple[BinaryIO, str]:
    """Return the data set, inflated within bounds, and its transfer syntax."""
    head = stream.read(132)
    stream.seek(132 if head[128:] == b"DICM" else 4 if head[:4] == b"DICM" else 0)
    syntax = read_meta(stream).get(0x00020010, IMPLICIT)
    return (io.BytesIO(inflate(stream.read(), MAX_HEADER_BYTES)) if syntax == DEFLATED else stream), syntax


def _read(path: Path) -> Derived:
    found: list[tuple[int, int, int]] = []
    with _Bounded(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        source, syntax = _open(stream)

        def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
            if tag in PIXEL_ELEMENTS:
                found.append((int(tag), length, source.tell()))
            return tag in PIXEL_ELEMENTS

        settings = pydicom.config.settings
        settings.reading_validation_mode = pydicom.config.RAISE  # else the end of the file is passed over
        try:
            header = read_dataset(source, syntax == IMPLICIT, syntax != BIG_ENDIAN, stop_when=at_pixels)
        finally:
            settings.reading_validation_mode = pydicom.config.IGNORE
    for tag in header.keys():  # noqa: SIM118 - a data set iterates over elements, which parses them
        element = header.get_item(tag)
        length, value = getattr(element, "length", UNDEFINED), getattr(element, "value", None)
        if length != UNDEFINED and isinstance(value, bytes) and len(value) < length:
            raise _cut_off()
    pixels = None
    if found:
        number, length, offset = found[0]
        is_plain = length != UNDEFINED and syntax in NATIVE and syntax != DEFLATED
        pixels = (number, length if length != UNDEFINED else -1, offset if is_plain else -1)
    return Derived(header, describe(path, header, syntax, pixels, size))


def list_structures(path: Path) -> list[tuple[int, str]]:
    """Return number and name of every structure or segment: for the screen only, names are free text.

    Raises:
        FormatError: LABEL_KIND or DICOM_DAMAGED.
    """
    header = read_derived(path, RTSTRUCT, SEGMENTATION, LABELMAP).header
    with parsing():
        return list_rois(header) if "StructureSetROISequence" in header else list_segments(header)


def list_rois(header: Dataset) -> list[tuple[int, str]]:
    """Return number and name of every ROI of a structure set; call it inside `parsing()`."""
    return [
        (integer(item, "ROINumber", -1), text(item, "ROIName")) for item in header.StructureSetROISequence
    ]


def list_segments(header: Dataset) -> list[tuple[int, str]]:
    """Return number and label of every segment; call it inside `parsing()`.

    Number 0 is left out: label maps may describe their background.
    """
    segments = [
        (integer(item, "SegmentNumber", -1), text(item, "SegmentLabel")) for item in header.SegmentSequence
    ]
    return [(number, name) for number, name in segments if number != 0]
