"""PS3.15 Annex E, Basic Application Level Confidentiality Profile: what becomes of each attribute.

Table E.1-1 (edition 2026c) comes as data from dicom-anonymizer, which keeps it up to date. That library's
own engine is not used: it leaves nested items as they are, draws new UIDs in every process, keeps preamble
and file header of the source, and cannot shift dates. Where the table leaves a choice by the kind of object
(X/Z/D: "X unless Z or D is required"), the last is taken: it conforms everywhere. What the table does not
list is kept only if its VR cannot hold free text, or after a search for identifiers; retired attributes that
it does not list are not kept at all, since nobody looked at those when it was made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import dictionary_is_retired, dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag

EDITION = "2026c"

Action = Literal[
    "remove", "empty", "dummy", "uid", "keep_uid", "date", "items", "text", "code", "number", "keep",
    "patient", "label",
]  # fmt: skip

DATE_CHOICES = ("remove", "shift")


@dataclass(frozen=True)
class Policy:
    """What the user chose.

    Args:
        dates: "shift" moves every date of a patient back by the same secret number of days and keeps times
            (Retain Longitudinal Temporal Information with Modified Dates Option).
        keep_device: Serial numbers, station names and the like stay (Retain Device Identity Option).
        allow_burned_in: Write images that may show text, too.
    """

    dates: str = "remove"
    keep_device: bool = False
    allow_burned_in: bool = False


def _load_table() -> dict[int, str]:
    """Return tag -> action code ("X", "Z", "D", "U", "X_Z_D", ...), without the repeating groups."""
    found = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")
    return {
        group << 16 | element: name.removesuffix("_TAGS")
        for name, tags in found.items()
        if name != "ALL_TAGS"
        for group, element, *mask in tags
        if not mask
    }


def _tags(keywords: str) -> frozenset[int]:
    """Return the tags of keywords; what this pydicom does not know is left out, and so removed."""
    return frozenset(tag for word in keywords.split() if (tag := tag_for_keyword(word)) is not None)


TABLE = _load_table()

PATIENT = _tags("PatientID PatientName")
LABELS = _tags("ROIName TrackingID")
"""Replaced by a pseudonym of the same text: equal names stay equal, so that they still choose a label."""

REFERENCES = _tags("ReferencedPerformedProcedureStepSequence")
"""D of a sequence whose items hold nothing but UIDs, that is: new UIDs."""

BIRTH = _tags("PatientBirthDate PatientBirthTime")
TIMEZONE = _tags("TimezoneOffsetFromUTC")

DEVICE = _tags(
    "CassetteID DetectorID DeviceDescription DeviceLabel DeviceSerialNumber DeviceUID GantryID GeneratorID "
    "LensMake LensModel LensSerialNumber LensSpecification ManufacturerDeviceClassUID "
    "ManufacturerDeviceIdentifier ModifyingDeviceID PerformedStationGeographicLocationCodeSequence "
    "PerformedStationName PerformedStationNameCodeSequence PlateID ScheduledProcedureStepLocation "
    "ScheduledStationGeographicLocationCodeSequence ScheduledStationName ScheduledStationNameCodeSequence "
    "ScheduledStudyLocation SourceManufacturer SourceSerialNumber StationName TreatmentMachineName "
    "TransducerIdentificationSequence UDISequence UniqueDeviceIdentifier XRayDetectorID XRayDetectorLabel "
    "XRaySourceID"
)
"""K in the column of the Retain Device Identity Option; dates of calibration go with the other dates."""

KINDS_OF_UID = _tags(
    "SOPClassUID ReferencedSOPClassUID OriginalSpecializedSOPClassUID RelatedGeneralSOPClassUID "
    "SOPClassesInStudy SOPClassesSupported AvailableTransferSyntaxUID CodingSchemeUID ContextUID "
    "MappingResourceUID"
)
"""They say what something is, not which one."""

LONG_CODES = _tags("LongCodeValue URNCodeValue")
FREE_TEXTS = _tags(
    "ComponentWelderIDs ContactDisplayName DoseComment FrameOfReferenceTransformationComment "
    "HangingProtocolCreator HangingProtocolUserGroupName NTPSourceAddress OwnerID StorageMediaFileSetID "
    "SubstanceAdministrationNotes SystemStatusComment TestResultComment WorklistLabel"
)
"""Comments, persons and places where most attributes of that VR are labels; no image needs them."""
OWN = {
    **dict.fromkeys(_tags("ContentDescription"), "Z"),  # free text, Type 2 in segmentations
    **dict.fromkeys(_tags("EncryptedAttributesSequence MACParametersSequence"), "X"),  # the original, sealed
    **dict.fromkeys(_tags("OrderPlacerIdentifierSequence OrderFillerIdentifierSequence"), "X"),
    **dict.fromkeys(FREE_TEXTS, "X"),
    **dict.fromkeys(_tags("IssuerOfAccessionNumberSequence"), "X"),
    **dict.fromkeys(_tags("ReferencedStudySequence"), "X"),  # X/Z in the table; no IOD wants it empty
}
"""Instead of what the table says, or where it says nothing."""

PERSONAL_GROUPS = {0x0010, 0x0032, 0x0038, 0x4000, 0x4008, 0x4010}
"""Patient, study request, visit, text, results, travel: here what the table does not list goes too."""

DATES = {"DA", "DT", "TM"}
STRINGS = DATES | {"AE", "AS", "CS", "DS", "IS", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT"}
BY_VR: dict[str, Action] = {
    **dict.fromkeys(("AS", "UN", "UR"), "remove"),
    **dict.fromkeys(("AE", "LT", "PN", "ST", "UC", "UT"), "dummy"),  # some object may require it
    **dict.fromkeys(("DS", "IS"), "number"),
    **dict.fromkeys(("LO", "SH"), "text"),
    **dict.fromkeys(DATES, "dummy"),
    "CS": "code",
    "UI": "uid",
    "SQ": "items",
}
"""What becomes of attributes that the table does not list; binary numbers stay."""
KEPT_BY_VR: dict[str, Action] = {"UI": "keep_uid", "SQ": "items", "DS": "number", "CS": "code"}
"""What becomes of attributes that an option keeps."""


def find_action(tag: BaseTag, stored_vr: str | None, policy: Policy) -> tuple[Action, str]:
    """Return what to do with an element, and its VR.

    Args:
        tag: Of the element.
        stored_vr: As the file has it; None in implicit VR.
        policy: The user's choice.
    """
    if _is_foreign(tag):
        return "remove", ""
    try:
        known = dictionary_VR(tag)
    except KeyError:  # nobody can say what is in it
        return "remove", ""
    vr = known if stored_vr in {None, "UN"} else str(stored_vr)
    if _kind(vr) != _kind(known):  # an element that is not what its tag says
        return "remove", ""
    vr = vr.split(" or ")[-1]
    return _choose(tag, known, policy), vr


def _is_foreign(tag: BaseTag) -> bool:
    """Whether an element is private, of a command, a group length, a curve, an overlay or retired pixels."""
    high = tag.group >> 8
    is_pixels = high != 0x7F or tag.group == 0x7FE0
    return tag.is_private or tag.group < 8 or tag.element == 0 or high in {0x50, 0x60} or not is_pixels


def _kind(vr: str) -> str:
    return "string" if vr in STRINGS else vr if vr in {"SQ", "UN"} else "binary"


def _choose(tag: BaseTag, vr: str, policy: Policy) -> Action:
    if tag in PATIENT:
        return "patient"
    if tag in LABELS:
        return "label"
    if policy.keep_device and tag in DEVICE:
        return KEPT_BY_VR.get(vr, "text")
    code = OWN.get(tag) or TABLE.get(tag)
    if code is None and dictionary_is_retired(tag):
        return "remove"
    if policy.dates == "shift" and tag not in BIRTH and (vr in DATES or tag in TIMEZONE):
        return "date"
    if code is not None:
        return _by_code(code, tag, vr)
    if tag.group in PERSONAL_GROUPS:
        return "remove"
    if tag in LONG_CODES:
        return "text"
    if tag in KINDS_OF_UID:
        return "keep_uid"
    return BY_VR.get(vr, "keep")


def _by_code(code: str, tag: BaseTag, vr: str) -> Action:
    if vr == "SQ":
        is_kept = code == "X_Z_U_STAR" or tag in REFERENCES
        return "items" if is_kept else "empty" if code in {"Z", "X_Z"} else "remove"
    if code == "X" or vr == "UN":
        return "remove"
    if vr == "UI":
        return "uid"
    return "empty" if code in {"Z", "X_Z"} else "dummy"


DUMMIES: dict[str, object] = {
    "AS": "000D",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "DS": "0",
    "IS": "0",
}


def dummy(vr: str) -> object:
    """Return a value that says nothing and is valid for its VR."""
    if vr in DUMMIES:
        return DUMMIES[vr]
    return "REMOVED" if vr in STRINGS else b"\0\0" if vr in {"OB", "OW"} else 0


METHODS = {
    "113100": "Basic Application Confidentiality Profile",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113109": "Retain Device Identity Option",
}
"""PS3.16 CID 7050."""


def list_methods(policy: Policy) -> Iterable[tuple[str, str]]:
    """Return the codes and meanings of PS3.16 CID 7050 that say what was done."""
    used = {"113100": True, "113107": policy.dates == "shift", "113109": policy.keep_device}
    return [(code, meaning) for code, meaning in METHODS.items() if used[code]]
