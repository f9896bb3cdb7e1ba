"""Objects that were derived from a series (structure sets, segmentations), read completely or not at all.

pydicom passes over the end of a file that was cut off: structures would be missing without a word. Here
every element has the length it announces, or the file is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom.config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from medseg.core.errors import DataError, FormatError
from medseg.io.dicom.elements import PARSE_ERRORS, Bounded, find_start, parse, quiet, read_meta
from medseg.io.dicom.header import describe
from medseg.io.dicom.layout import IMPLICIT
from medseg.io.dicom.scan import Instance
from medseg.io.dicom.tags import integer, text

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"  # Supplement 243
KINDS = {RTSTRUCT: "an RT structure set", SEGMENTATION: "a segmentation", LABELMAP: "a segmentation"}
UNDEFINED = 0xFFFFFFFF
MAX_ROI, MAX_SEGMENT = (1 << 31) - 1, (1 << 16) - 1  # IS and US (PS3.5 6.2)


@dataclass(frozen=True)
class Derived:
    """A label object without its pixels: all elements, and as an instance that pixels can be read from."""

    header: Dataset
    instance: Instance


@contextmanager
def parsing() -> Iterator[None]:
    """Keep pydicom quiet, and turn what it raises on malformed or missing elements into DICOM_DAMAGED.

    What the system raises becomes FILE_UNREADABLE.
    """
    try:
        with quiet():
            yield
    except OSError as error:
        if error.errno is not None:
            raise DataError(
                f"a file cannot be read ({error.strerror})",
                hint="check its permissions",
                code="FILE_UNREADABLE",
            ) from error
        raise _cut_off() from error  # pydicom's own: the end is reached where a sequence goes on
    except PARSE_ERRORS as error:
        raise FormatError(
            "a DICOM object lacks an element that it must have, or holds one that cannot be read",
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
    with parsing():
        derived = _read(path)
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


def read_elements(path: Path, keywords: Collection[str]) -> Dataset:
    """Read some elements of any DICOM file; call it inside `parsing()`."""
    tags = [tag for word in keywords if (tag := tag_for_keyword(word)) is not None]
    with Bounded(path) as stream:
        return parse(stream, _open(stream), tags)[0]


def _open(stream: Bounded) -> str:
    """Return the transfer syntax, leaving the stream at the data set's first byte."""
    stream.seek(find_start(stream.read(132)))
    return read_meta(stream).get(0x00020010, IMPLICIT)


def _read(path: Path) -> Derived:
    settings = pydicom.config.settings
    with Bounded(path) as stream:
        syntax = _open(stream)
        settings.reading_validation_mode = pydicom.config.RAISE  # else the end of the file is passed over
        try:
            header, found = parse(stream, syntax, None)
        finally:
            settings.reading_validation_mode = pydicom.config.IGNORE
    for tag in header.keys():  # noqa: SIM118 - a data set iterates over elements, which parses them
        element = header.get_item(tag)
        length, value = getattr(element, "length", UNDEFINED), getattr(element, "value", None)
        if length != UNDEFINED and isinstance(value, bytes) and len(value) < length:
            raise _cut_off()
    return Derived(header, describe(path, header, syntax, found, stream.size))


def list_structures(path: Path) -> list[tuple[int, str]]:
    """Return number and name of every structure or segment: for the screen only, names are free text.

    Raises:
        FormatError: LABEL_KIND, DICOM_DAMAGED or DICOM_HEADER.
    """
    header = read_derived(path, RTSTRUCT, SEGMENTATION, LABELMAP).header
    with parsing():
        return list_rois(header) if "StructureSetROISequence" in header else list_segments(header)


def list_rois(header: Dataset) -> list[tuple[int, str]]:
    """Return number and name of every ROI of a structure set; call it inside `parsing()`.

    Raises:
        FormatError: DICOM_HEADER: one has no number, or one below 0.
    """
    rois = [
        (integer(item, "ROINumber", -1), text(item, "ROIName")) for item in header.StructureSetROISequence
    ]
    _check_numbers(rois, MAX_ROI)
    return rois


def list_segments(header: Dataset) -> list[tuple[int, str]]:
    """Return number and label of every segment; call it inside `parsing()`.

    Number 0 is left out: label maps may describe their background.

    Raises:
        FormatError: DICOM_HEADER: one has no number, or one that two bytes do not hold.
    """
    segments = [
        (integer(item, "SegmentNumber", -1), text(item, "SegmentLabel")) for item in header.SegmentSequence
    ]
    _check_numbers(segments, MAX_SEGMENT)
    return [(number, name) for number, name in segments if number != 0]


def _check_numbers(structures: list[tuple[int, str]], limit: int) -> None:
    if not all(0 <= number <= limit for number, _ in structures):
        raise FormatError(
            f"a structure or segment has no number of 0 to {limit}",
            hint="export it again",
            code="DICOM_HEADER",
        )
