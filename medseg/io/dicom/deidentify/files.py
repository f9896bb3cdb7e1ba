"""Take out of one DICOM file what tells whose it is; pixels, geometry and references stay as they are.

`profile` says what becomes of an element, `pseudonyms` what stands in its place, `identifiers` what to look
for in texts that stay. Private elements, curves, overlays, unknown elements, the preamble and everything of
the file header but SOP class and transfer syntax go. Elements that are not touched keep their very bytes.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pydicom
from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medseg import __version__
from medseg.core.errors import DataError, FormatError
from medseg.io.dicom.deidentify.cleaner import Cleaner
from medseg.io.dicom.deidentify.identifiers import Identifiers, list_texts
from medseg.io.dicom.deidentify.profile import EDITION, Policy, list_methods
from medseg.io.dicom.deidentify.pseudonyms import Pseudonyms
from medseg.io.dicom.elements import PARSE_ERRORS, quiet

PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
CONTENT, DOCUMENT = 0x0040A730, 0x00420011

TEXT_CLASSES = ("7", "6", "3", "12", "77")
"""Below 1.2.840.10008.5.1.4.1.1: secondary capture, ultrasound, angiography, fluoroscopy, visible light."""
TEXT_MODALITIES = {"US", "IVUS", "ES", "XA", "RF", "SC", "OT", "XC", "GM", "DMS", "OP", "DG", "EPS", "HC"}


def may_show_text(dataset: Dataset) -> bool:
    """Say whether a picture may show a name: it says so, or is of a kind that often does and is silent."""
    if not any(tag in dataset for tag in PIXELS):
        return False
    flag = _text(dataset, "BurnedInAnnotation")
    if flag in {"YES", "NO"}:
        return flag == "YES"
    kind = _text(dataset, "SOPClassUID").removeprefix("1.2.840.10008.5.1.4.1.1.")
    is_kind = any(kind == one or kind.startswith(f"{one}.") for one in TEXT_CLASSES)
    words = {word.strip().upper() for word in list_texts(dataset.get("ImageType"))}
    is_screen = any("SCREEN" in word or "CAPTURE" in word for word in words)
    is_captured = bool(_text(dataset, "ConversionType"))
    return is_kind or is_screen or is_captured or _text(dataset, "Modality") in TEXT_MODALITIES


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip(" \0").upper()


def deidentify_file(
    source: Path, target: Path, policy: Policy, names: Pseudonyms, patient: str
) -> dict[str, int]:
    """Write a de-identified copy of a DICOM file.

    Args:
        source: To read.
        target: To write; the caller makes it appear only when it is whole.
        policy: The user's choice.
        names: Of this site.
        patient: What tells the patient from others; the pseudonym stands for it.

    Returns:
        Warning code -> how often: DEID_BURNED_IN, DEID_TEXT.

    Raises:
        DataError: DEID_BURNED_IN, DEID_DOCUMENT, DEID_PIXEL_TEXT, DICOM_DAMAGED, DICOM_TRUNCATED: nothing was
            written.
    """
    with quiet(), config.disable_value_validation():
        try:
            # From memory: of a file, pydicom allocates whatever length a damaged header claims.
            data = source.read_bytes()
            dataset = pydicom.dcmread(BytesIO(data), force=True)
            _refuse_cut(dataset, data)
            notes = deidentify(dataset, policy, names, patient)
            _write(dataset, target)
        except (*PARSE_ERRORS, BytesLengthException, InvalidDicomError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the file's
                raise
            raise FormatError(
                "a file cannot be taken apart into its elements, or not put together again",
                hint="export it again",
                code="DICOM_DAMAGED",
            ) from error
    return notes


def _write(dataset: Dataset, target: Path) -> None:
    """Write a file, or nothing: pydicom finds some damage only halfway through."""
    is_whole = False
    try:
        dcmwrite(target, dataset, enforce_file_format=True)
        is_whole = True
    finally:
        if not is_whole:
            target.unlink(missing_ok=True)


def _refuse_cut(dataset: Dataset, data: bytes) -> None:
    """Refuse a file that ends inside its last element, which pydicom would hand over as a shorter one.

    Raises:
        FormatError: DICOM_TRUNCATED.
    """
    last = dataset.get_item(max(dataset.keys())) if len(dataset) else None
    if not isinstance(last, RawDataElement) or last.length == 0xFFFFFFFF or _find_syntax(dataset).is_deflated:
        return
    rest = len(data) - last.value_tell - last.length
    if rest < 0 or (0 < rest < 8 and data[-rest:].strip(b"\0")):
        raise FormatError(
            "a file ends inside its last element", hint="export it again", code="DICOM_TRUNCATED"
        )


def deidentify(dataset: Dataset, policy: Policy, names: Pseudonyms, patient: str) -> dict[str, int]:
    """De-identify a data set in place; see `deidentify_file`. Call it inside `quiet()`."""
    notes = _refuse(dataset, policy)
    identifiers = Identifiers(dataset, keep_device=policy.keep_device)
    _refuse_text_in_pixels(dataset, identifiers)
    syntax = _find_syntax(dataset)
    cleaner = Cleaner(policy, names, patient, identifiers)
    cleaner.clean(dataset)
    _mark(dataset, policy, names.name_patient(patient))
    dataset.preamble = b"\0" * 128
    dataset.file_meta = _make_meta(dataset, syntax)
    if cleaner.replaced:
        notes["DEID_TEXT"] = cleaner.replaced
    return notes


def _refuse(dataset: Dataset, policy: Policy) -> dict[str, int]:
    if CONTENT in dataset or DOCUMENT in dataset:
        raise DataError(
            "a report or document: its content is text about the patient and cannot be cleaned",
            hint="leave it out; only images and what is drawn on them can be de-identified",
            code="DEID_DOCUMENT",
        )
    if not may_show_text(dataset):
        return {}
    if not policy.allow_burned_in:
        raise DataError(
            "the picture may show the patient's name: its header says so, or does not deny it for a kind of "
            "image that often does",
            hint="look at it, then leave it out or add --allow-burned-in",
            code="DEID_BURNED_IN",
        )
    return {"DEID_BURNED_IN": 1}


def _refuse_text_in_pixels(dataset: Dataset, identifiers: Identifiers) -> None:
    for tag in PIXELS:
        data = dataset.get_item(tag).value if tag in dataset else None
        if isinstance(data, bytes) and identifiers.occur_in_bytes(data):
            raise DataError(
                "among the pixels stands an identifier of the patient as text, perhaps in a comment of the "
                "compressor",
                hint="decompress the images first, with gdcmconv --raw for one",
                code="DEID_PIXEL_TEXT",
            )


def _find_syntax(dataset: Dataset) -> UID:
    """Return the transfer syntax; a file without header says it by its encoding."""
    stated = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if stated:
        return UID(str(stated))
    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian


def _mark(dataset: Dataset, policy: Policy, pseudonym: str) -> None:
    """Say who this is now and what was done (PS3.15 E.1.1, PS3.3 C.7.1.1)."""
    dataset.PatientName = dataset.PatientID = pseudonym
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"medseg {__version__}, PS3.15 {EDITION} Basic Profile"
    items = []
    for code, meaning in list_methods(policy):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", meaning
        items.append(item)
    dataset.DeidentificationMethodCodeSequence = items
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if policy.dates == "shift" else "REMOVED"


def _make_meta(dataset: Dataset, syntax: UID) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"MEDSEG {__version__}"[:16]
    return meta
