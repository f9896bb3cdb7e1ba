"""One DICOM file, headers only: what it is, how its pixels are stored, what is wrong with it.

pydicom parses; this module decides what is read of it, bounds it, and turns values that cannot be numbers
into None or NaN, so that the series model sees plain data. The pixel element is located, never read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from medseg.core.errors import DataError, FormatError
from medseg.io.dicom.elements import PARSE_ERRORS, Bounded, find_start, parse, read_meta
from medseg.io.dicom.frames import read_frames
from medseg.io.dicom.layout import IMPLICIT, check_layout, read_layout
from medseg.io.dicom.scan import Frame, Instance
from medseg.io.dicom.tags import text, texts

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
SUFFIXES = {".dcm", ".ima", ".dicom"}
WRAPPED = {".gz", ".bz2", ".xz", ".zip", ".part", ".tmp", ".crdownload"}
NOT_IMAGES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "REG", "SR", "PR", "KO", "DOC", "M3D", "ECG"}
"""Modalities that hold no intensity image, whatever their pixels (PS3.3 C.7.3.1.1.1)."""
NOT_IMAGE_CLASSES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("66", "88.", "11.", "481.2", "481.3", "481.5", "104.")
)
"""SOP classes of segmentations, reports, presentations, doses, structures, plans and documents."""
NO_PIXELS = (
    *NOT_IMAGE_CLASSES,
    *(f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("9.", "4.2", "67", "78.", "79.", "80.", "131", "481.")),
    "1.2.840.10008.5.1.4.3",
    "1.2.840.10008.5.1.4.4",
)
"""The same and waveforms, spectra, measurements, mappings and protocols."""
LOSSY = {f"1.2.840.10008.1.2.4.{last}" for last in ("50", "51", "81", "91", "203")}

FACTS = {
    "units": "Units",
    "laterality": "Laterality",
    "image_laterality": "ImageLaterality",
    "patient_position": "PatientPosition",
    "patient_orientation": "PatientOrientation",
    "images_in_acquisition": "ImagesInAcquisition",
    "number_of_slices": "NumberOfSlices",  # PET
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


def read_instance(path: Path) -> tuple[Instance, tuple[Frame, ...]] | None:
    """Return what a file's header says, or None if the file is not DICOM (or a DICOMDIR).

    Call it inside `quiet()`.

    Raises:
        FormatError: DICOM_DAMAGED: the file claims to be DICOM and cannot be parsed.
        DataError: FILE_UNREADABLE.
    """
    try:
        with Bounded(path) as stream:
            return _read(path, stream)
    except PARSE_ERRORS as error:
        raise _damaged("its header cannot be parsed") from error
    except OSError as error:
        if error.errno is None:  # raised by pydicom, not by the system
            raise _damaged("its header cannot be parsed") from error
        raise DataError(
            f"a file cannot be read ({error.strerror})",
            hint="check its permissions",
            code="FILE_UNREADABLE",
        ) from error


def is_named_dicom(path: Path) -> bool:
    """Whether a file's name claims DICOM, also behind the ending of an archive or a broken download."""
    ends = [suffix.lower() for suffix in path.suffixes[-2:]]
    if path.name.startswith(".") or not ends:
        return False
    return ends[-1] in SUFFIXES or (ends[0] in SUFFIXES and ends[-1] in WRAPPED)


def _damaged(why: str) -> FormatError:
    return FormatError(f"a file claims to be DICOM, but {why}", hint="export it again", code="DICOM_DAMAGED")


def _read(path: Path, stream: Bounded) -> tuple[Instance, tuple[Frame, ...]] | None:
    head = stream.read(132)
    start = find_start(head)
    is_part10 = start > 0
    if not is_part10 and not _looks_like_a_dataset(head):
        if is_named_dicom(path):
            raise _damaged("it is empty" if not head else "it is something else")
        return None
    stream.seek(start)
    meta = read_meta(stream)
    if meta.get(0x00020002) == MEDIA_DIRECTORY or path.name.upper() == "DICOMDIR":
        return None
    syntax = meta.get(0x00020010, IMPLICIT)
    header, found = parse(stream, syntax)
    if found is None and not (has_no_pixels(header) or text(header, "SeriesInstanceUID")):
        if is_part10 or meta:
            raise _damaged("it ends before it says which series it belongs to")
        return None
    instance = describe(path, header, syntax, found, stream.size)
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


def describe(
    path: Path, header: Dataset, syntax: str, found: tuple[int, int, int] | None, size: int
) -> Instance:
    """Return a file's identity, pixel layout and facts; what is wrong with its pixels becomes its error."""
    pixels = read_layout(header, syntax, found) if found else None
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
    return replace(instance, error=None if has_no_pixels(header) else _no_pixels())


def has_no_pixels(header: Dataset) -> bool:
    """Whether an object of this kind is whole without pixel data; an image that ends early is not."""
    return text(header, "Modality") in NOT_IMAGES or text(header, "SOPClassUID").startswith(NO_PIXELS)


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
