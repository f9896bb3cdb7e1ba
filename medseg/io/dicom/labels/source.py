"""What a written object takes over from its source: patient, study and references; and names of its own.

Nothing depends on the clock or on chance: the same labels of the same scan give the same file, and with it
the same UIDs, so an object that is sent twice is one object. Dates are therefore those of the source.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName, format_number_as_ds

from medseg import __version__
from medseg.core.errors import DataError
from medseg.core.volume import Labels
from medseg.io.dicom.elements import PARSE_ERRORS
from medseg.io.dicom.labels.derived import parsing, read_elements
from medseg.io.dicom.labels.slices import to_source
from medseg.io.dicom.scan import Frame, Instance, Scan
from medseg.io.dicom.tags import text

UNKNOWN = "unknown"  # the algorithm of labels that nobody tells the origin of
MANUFACTURER = "medseg"
MAX_TEXT = {"LO": 64, "SH": 16}  # PS3.5 6.2
UNKNOWN_DATE, UNKNOWN_TIME = "19000101", "000000"

# Patient, General Study and Patient Study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2). Type 2: the element must
# be there, it may be empty.
TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
TYPE_3 = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
)
DATES = tuple(
    (f"{what}Date", f"{what}Time")
    for what in ("Content", "Acquisition", "Series", "Study", "InstanceCreation")
)
FORMS = {
    "StudyID": r"[^\\]{0,16}",
    "AccessionNumber": r"[^\\]{0,16}",
    "StudyTime": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
    "PatientSex": r"[MFO]",
    "PatientAge": r"\d{3}[DWMY]",
    "PatientSize": r"[-+]?\d*\.?\d+([eE][-+]?\d+)?",
    "PatientWeight": r"[-+]?\d*\.?\d+([eE][-+]?\d+)?",
    "PatientIdentityRemoved": r"YES|NO",
}
"""Values of another form are left out: an old or careless export must not make the new object invalid, and
a shortened number is another number. Name and id of the patient are never touched."""


@dataclass(frozen=True)
class Source:
    """A scan as what an object is derived from.

    Args:
        header: Patient and study, valid and complete.
        array: (columns, rows, slices) the labels on its slices.
        frame_of_reference: Its own, or one derived from its series where it has none.
        date, time: When its content was made; stands for the object's own.
    """

    scan: Scan
    header: Dataset
    array: NDArray[Any]
    frame_of_reference: str
    date: str
    time: str


def read_source(scan: Scan, labels: Labels) -> Source:
    """Read what an object says of its source, and bring the labels onto the slices.

    Raises:
        GeometryError: GRID_MISMATCH.
        FormatError: DICOM_DAMAGED.
        DataError: LABEL_REFERENCE: the scan has no UIDs that tell its slices apart; FILE_UNREADABLE.
    """
    _check_uids(scan)
    array = to_source(labels, scan)
    wanted = {*TYPE_2, *TYPE_3, *(name for pair in DATES for name in pair), "PositionReferenceIndicator"}
    with parsing():
        raw = read_elements(scan.first.path, wanted)
        header = _copy(raw, scan)
        date, time = _find_date(raw)
        space = scan.frames[0].frame_of_reference or derive_uid("frame of reference", scan.first.series)
        header.FrameOfReferenceUID = space
        header.PositionReferenceIndicator = clean(text(raw, "PositionReferenceIndicator"), "LO")
    return Source(scan, header, array, space, date, time)


def _check_uids(scan: Scan) -> None:
    needed = {uid for frame in scan.frames for uid in (frame.instance.sop_instance, frame.instance.series)}
    others = {uid for frame in scan.frames for uid in (frame.instance.study, frame.frame_of_reference)}
    names = {(frame.instance.sop_instance, frame.index) for frame in scan.frames}
    is_one = not any("\\" in uid for uid in needed | others)
    if "" in needed or not is_one or len(names) < len(scan.frames):
        raise DataError(
            "no object can refer to the scan: UIDs are missing, several in one place, or shared by slices",
            hint="export the series again",
            code="LABEL_REFERENCE",
        )


def _copy(raw: Dataset, scan: Scan) -> Dataset:
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.StudyInstanceUID = scan.first.study or derive_uid("study", scan.first.series)
    for keyword in (*TYPE_2, *TYPE_3):
        if keyword == "DeidentificationMethodCodeSequence":
            if items := raw.get(keyword):
                header.DeidentificationMethodCodeSequence = list(items)
            continue
        value = _text(raw, keyword)
        value = value if _is_valid(keyword, value) else ""
        if value or keyword in TYPE_2:
            setattr(header, keyword, value)
    is_explained = "DeidentificationMethod" in header or "DeidentificationMethodCodeSequence" in header
    if header.get("PatientIdentityRemoved") == "YES" and not is_explained:  # type 1C
        header.DeidentificationMethod = "not stated by the source"
    return header


def _is_valid(keyword: str, value: str) -> bool:
    if not keyword.endswith("Date"):
        return keyword not in FORMS or re.fullmatch(FORMS[keyword], value) is not None
    try:
        return len(value) == 8 and bool(datetime.date.fromisoformat(value))
    except ValueError:  # 31 February, 00000000
        return False


def _text(raw: Dataset, keyword: str) -> str:
    """Return a value as text, of several names one; "" where it cannot be decoded."""
    try:
        value = raw.get(keyword)
        if isinstance(value, MultiValue) and dictionary_VR(keyword) == "PN":  # a patient has one
            return " ".join(str(name) for name in value)
        return str(value) if isinstance(value, PersonName) else text(raw, keyword)
    except PARSE_ERRORS:
        return ""


def _find_date(raw: Dataset) -> tuple[str, str]:
    """Return date and time (to the second) of the source's content, or of the nearest that it tells."""
    for date, time in DATES:
        if _is_valid(date, _text(raw, date)):
            known = _text(raw, time)[:6]
            return _text(raw, date), known if _is_valid("StudyTime", known) else UNKNOWN_TIME
    return UNKNOWN_DATE, UNKNOWN_TIME


def derive_uid(*parts: object) -> str:
    """Return a UID that is the same for the same parts (PS3.5 B.2: 2.25 and a UUID)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"


def fingerprint(source: Source, *settings: object) -> str:
    """Return what the UIDs of an object are derived from.

    All that the source and its labels can change in the content is in it: patient and study, the series and
    its slices with their places, and the voxels; `settings` are whatever else does.
    """
    scan = source.scan
    series = (scan.first.series, scan.modality, source.date, source.time, scan.geometry.spacing_mm)
    slices = [(*_identify(frame.instance), _locate(frame)) for frame in scan.frames]
    voxels = (source.array.shape, hash_voxels(source.array))
    return derive_uid(__version__, _encode(source.header), series, slices, *voxels, *settings)


def _identify(instance: Instance) -> tuple[object, ...]:
    """Return what a reference to a file says."""
    return instance.sop_class, instance.sop_instance, instance.pixels and instance.pixels.frames


def _locate(frame: Frame) -> tuple[object, ...]:
    """Return which frame of its file a slice is, and where it lies."""
    return frame.index, frame.position_mm, frame.orientation, frame.spacing_mm, frame.thickness_mm


def _encode(header: Dataset) -> bytes:
    """Return a header as it is written."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, True
    with parsing():
        write_dataset(stream, header)
    return stream.getvalue()


def hash_voxels(array: NDArray[Any]) -> str:
    """Return the hash of (columns, rows, slices, ...) voxels, whatever their order in memory."""
    digest = hashlib.sha256(array.dtype.str.encode())
    for index in range(array.shape[2]):
        digest.update(np.swapaxes(array[:, :, index], 0, 1).tobytes())
    return digest.hexdigest()


def describe_maker(algorithm: tuple[str, str], what: str) -> str:
    """Return the description of a series: "medseg segmentation", or "segmentation" of unknown origin."""
    return what if algorithm[0] == UNKNOWN else f"{algorithm[0]} {what}"


def clean(value: str, vr: str) -> str:
    """Return a text that a DICOM element can hold: no backslash or control character, not too long."""
    return re.sub(r"[\\\x00-\x1f\x7f]", " ", value).strip()[: MAX_TEXT[vr]].strip()


def decimals(values: Iterable[float]) -> list[str]:
    """Return decimal strings of at most 16 characters."""
    return [format_number_as_ds(float(value) + 0.0) for value in values]


def refer_to(frame: Frame) -> Dataset:
    """Return a reference to one slice: an instance, and the frame in it where it holds several."""
    item = Dataset()
    item.ReferencedSOPClassUID = frame.instance.sop_class
    item.ReferencedSOPInstanceUID = frame.instance.sop_instance
    if is_multiframe(frame):
        item.ReferencedFrameNumber = frame.index + 1
    return item


def is_multiframe(frame: Frame) -> bool:
    """Whether the slice's file holds several."""
    return frame.instance.pixels is not None and frame.instance.pixels.frames > 1


def refer_to_files(scan: Scan) -> list[Dataset]:
    """Return a reference to every file of the scan; to some frames only where it does not use all."""
    frames: dict[str, list[Frame]] = {}
    for frame in scan.frames:
        frames.setdefault(frame.instance.sop_instance, []).append(frame)
    references = []
    for used in frames.values():
        item = refer_to(used[0])
        item.pop("ReferencedFrameNumber", None)
        pixels = used[0].instance.pixels
        if pixels is not None and len(used) < pixels.frames:
            item.ReferencedFrameNumber = [frame.index + 1 for frame in used]
        references.append(item)
    return references


def check_names(array: NDArray[Any], names: Mapping[int, str]) -> None:
    """Refuse labels without a name, and numbers that DICOM cannot hold.

    Raises:
        DataError: LABEL_VALUE.
    """
    limit = 65535
    values = [*names, int(array.min()), int(array.max())]
    if not names or min(names) < 1 or min(values) < 0 or max(values) > limit:
        raise DataError(f"labels of DICOM objects are 1 to {limit}", hint="renumber them", code="LABEL_VALUE")
    is_present = np.zeros(limit + 1, dtype=bool)
    for index in range(array.shape[2]):  # one at a time: an array of indices is 8 times as large
        is_present[array[..., index]] = True
    if unnamed := sorted(set(np.flatnonzero(is_present).tolist()) - {0} - set(names)):
        raise DataError(
            f"the label map holds {', '.join(map(str, unnamed[:10]))}, which no name is known for",
            hint="give every label a name",
            code="LABEL_VALUE",
        )
