"""Plants an identifier of its own in every tag of a DICOM file that may hold one."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from tests.dicom_enhanced import one_item

NAME, BIRTH_DATE, PATIENT_ID = "Żółwińska^Émilie", "19370419", "QX-7310442"
PREAMBLE, TRAILER = b"PREAMBLE-QX0900", b"PADDING-QX0901"
SHORT = (
    *("AccessionNumber", "StationName", "OtherPatientIDs", "DeviceSerialNumber", "DetectorID", "GantryID"),
    *("PatientTelephoneNumbers", "ReferringPhysicianTelephoneNumbers", "RequestedProcedureID", "AdmissionID"),
    *("PerformedStationName", "PerformedStationAETitle", "PerformedProcedureStepID", "MedicalRecordLocator"),
    *("Occupation", "EthnicGroup", "CountryOfResidence", "RegionOfResidence", "IssuerOfPatientID"),
    *("InstitutionalDepartmentName", "ProtocolName", "ClinicalTrialSubjectID", "PlateID", "CassetteID"),
)
LONG = (
    *("InstitutionName", "InstitutionAddress", "PatientAddress", "SeriesDescription", "StudyDescription"),
    *("ImageComments", "PatientComments", "AdditionalPatientHistory", "DerivationDescription", "Allergies"),
    *("AdmittingDiagnosesDescription", "RequestedProcedureDescription", "MedicalAlerts", "FrameComments"),
    *("PerformedProcedureStepDescription", "ReasonForTheRequestedProcedure", "AcquisitionComments"),
    *("IdentifyingComments", "ReferringPhysicianAddress", "PatientTelecomInformation", "ContentDescription"),
    *("AcquisitionProtocolDescription", "DeviceDescription", "ReasonForStudy", "VisitComments"),
)
PEOPLE = (
    *("OtherPatientNames", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName"),
    *("PhysiciansOfRecord", "RequestingPhysician", "PatientMotherBirthName", "ContentCreatorName"),
    *("NameOfPhysiciansReadingStudy", "ResponsiblePerson", "PatientBirthName"),
)
UIDS = ("InstanceCreatorUID", "IrradiationEventUID", "DeviceUID", "SynchronizationFrameOfReferenceUID")
DATES = ("PerformedProcedureStepStartDate", "LastMenstrualDate", "DateOfLastCalibration", "OverlayDate")


@dataclass
class Planted:
    """Hands out identifiers, each once, and remembers them."""

    texts: list[str] = field(default_factory=lambda: [*NAME.split("^"), BIRTH_DATE, PATIENT_ID])
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def text(self) -> str:
        return self.note(f"QX{next(self.numbers):04d}ZJ")

    def person(self) -> str:
        return f"{self.text()}^{self.text()}"

    def uid(self) -> str:
        return self.note(f"1.3.9999.{next(self.numbers)}.4242")

    def date(self) -> str:
        return self.note(f"1968{next(self.numbers) % 12 + 1:02d}{next(self.numbers) % 28 + 1:02d}")

    def note(self, text: str) -> str:
        self.texts.append(text)
        return text


def plant(dataset: Dataset, planted: Planted) -> None:
    """Put an identifier wherever one may stand: flat, nested, private, unknown, ill-typed, sealed."""
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        planted.note(str(dataset[keyword].value))
    with config.disable_value_validation():
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, PATIENT_ID, BIRTH_DATE
        for keywords, make in (
            (SHORT, planted.text),
            (LONG, lambda: f"seen by {planted.text()} on {BIRTH_DATE}"),
            (PEOPLE, planted.person),
            (UIDS, planted.uid),
            (DATES, planted.date),
        ):
            for keyword in keywords:
                setattr(dataset, keyword, make())
        dataset.StudyID = planted.text()
        dataset.AcquisitionDateTime = planted.date() + "101112.123+0100"
        plant_nested(dataset, planted)
        plant_kind(dataset, planted)
        plant_private(dataset, planted)
        plant_odd(dataset, planted)


def plant_nested(dataset: Dataset, planted: Planted) -> None:
    code = one_item(
        CodeValue=planted.text(), CodingSchemeDesignator="99X", CodeMeaning=f"of {NAME.split('^')[0]}"
    )
    asked = one_item(ScheduledProcedureStepID=planted.text(), ScheduledProtocolCodeSequence=code)
    asked[0].RequestedProcedureDescription = planted.text()
    dataset.RequestAttributesSequence = asked
    dataset.OtherPatientIDsSequence = one_item(PatientID=planted.text(), IssuerOfPatientID=planted.text())
    dataset.ReferencedPatientSequence = one_item(ReferencedSOPInstanceUID=planted.uid())
    dataset.ReferencedStudySequence = one_item(ReferencedSOPInstanceUID=planted.uid())
    dataset.OperatorIdentificationSequence = one_item(
        PersonIdentificationCodeSequence=one_item(CodeMeaning=planted.text()), InstitutionName=planted.text()
    )
    before = one_item(
        PatientName=planted.person(), ReferencedPatientSequence=one_item(PatientID=planted.text())
    )
    dataset.OriginalAttributesSequence = one_item(
        ModifiedAttributesSequence=before, SourceOfPreviousValues="X"
    )
    dataset.DigitalSignaturesSequence = one_item(CertificateOfSigner=planted.text().encode())
    dataset.EncryptedAttributesSequence = one_item(EncryptedContent=planted.text().encode())
    dataset.IconImageSequence = one_item(BitsAllocated=8, PixelData=planted.text().encode())
    # A kept sequence, two levels deep, and in it what the profile removes, what is private, a plain text:
    deep = one_item(CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning=f"{PATIENT_ID} again")
    kept = one_item(
        CodeValue="2", CodingSchemeDesignator="99X", CodeMeaning="kept", InstitutionName=planted.text()
    )
    deep[0].PatientComments = planted.text()
    deep[0].private_block(0x0011, planted.text(), create=True).add_new(1, "LO", planted.text())
    kept[0].EquivalentCodeSequence = deep
    dataset.ProcedureCodeSequence = kept


def plant_kind(dataset: Dataset, planted: Planted) -> None:
    """Plant in what only structures, segmentations or multi-frame objects have."""
    family = NAME.split("^")[0]
    for region in dataset.get("StructureSetROISequence", []):
        region.ROIName, region.ROIDescription = planted.text(), planted.text()
        region.ROIGenerationDescription = planted.text()
    for note in dataset.get("RTROIObservationsSequence", []):
        note.ROIInterpreter, note.ROIObservationLabel = planted.person(), planted.text()
    if "StructureSetLabel" in dataset:
        dataset.StructureSetLabel, dataset.StructureSetName = planted.text(), planted.text()
        dataset.StructureSetDescription = planted.text()
    for segment in dataset.get("SegmentSequence", []):
        segment.SegmentLabel, segment.SegmentDescription = f"lesion of {family}", planted.text()
        segment.TrackingID, segment.TrackingUID = planted.text(), planted.uid()
    for frame in dataset.get("PerFrameFunctionalGroupsSequence", []):
        content = frame.FrameContentSequence[0]
        content.FrameComments, content.FrameLabel = planted.text(), f"slice of {family}"
        content.FrameAcquisitionDateTime = planted.date() + "101112"
        frame.private_block(0x0021, planted.text(), create=True).add_new(1, "SH", planted.text())


def plant_private(dataset: Dataset, planted: Planted) -> None:
    block = dataset.private_block(0x0009, planted.text(), create=True)
    block.add_new(1, "LO", planted.text())
    block.add_new(2, "OB", planted.text().encode())
    block.add_new(3, "SQ", one_item(PatientName=planted.person(), PatientAddress=planted.text()))
    block.add_new(4, "UN", planted.text().encode("utf-16-le"))


def plant_odd(dataset: Dataset, planted: Planted) -> None:
    dataset.add_new(0x00089871, "UN", planted.text().encode())  # no dictionary knows it
    dataset.add_new(0x60000010, "US", 1)
    dataset.add_new(0x60004000, "LT", planted.text())  # comments of an overlay
    dataset.add_new(0x60003000, "OW", planted.text().encode())
    dataset.add_new(0x50000030, "SH", planted.text())  # a curve's units
    dataset.add_new(0x00280303, "CS", PATIENT_ID)  # said with words of a code
    text = planted.text().encode()
    dataset[0x00181050] = RawDataElement(Tag(0x00181050), "DS", len(text), text, 0, False, True)  # no number
    dataset.add_new(0x00185101, "CS", PATIENT_ID)  # view position, in a code string
    dataset.add_new(0x00185104, "LO", planted.text())  # what should be a sequence
    dataset.add_new(0x00181020, "LO", f"by {NAME.split('^')[0].upper()}")  # software versions
    dataset.add_new(0x00181210, "SH", "19.04.1937")  # kernel: the birth date as people write it
    planted.note("19.04.1937")
    dataset.add_new(0xFFFCFFFC, "OB", TRAILER + b"!")
    planted.note(TRAILER.decode())


def plant_file(path: Path, planted: Planted) -> None:
    """Plant in a file, in its preamble and in its file header."""
    dataset, before = dcmread(path), len(planted.texts)
    plant(dataset, planted)
    meta = dataset.file_meta
    meta.SourceApplicationEntityTitle, meta.SendingApplicationEntityTitle = planted.text(), planted.text()
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = planted.uid(), planted.text().encode()
    dataset.preamble = PREAMBLE.ljust(128, b"\0")
    planted.note(PREAMBLE.decode())
    with config.disable_value_validation():
        dataset.save_as(path)
    data = path.read_bytes()
    missing = [text for text in planted.texts[before:] if not is_in(text, data)]
    assert not missing, f"not planted: {missing}"


def is_in(text: str, data: bytes) -> bool:
    """Say whether a text stands in bytes, in any of the usual encodings and in either case.

    A date counts only where no digit stands before it: UIDs hold all digits there are, in any order.
    """
    if text.isdigit():
        return re.search(rb"(?<!\d)" + text.encode(), data) is not None
    forms = {text, text.upper(), text.lower()}
    encoded = (
        form.encode(name, "ignore")
        for form in forms
        for name in ("utf-8", "iso8859_2", "latin-1", "utf-16-le", "utf-16-be")
    )
    return any(len(form) >= 4 and form in data for form in encoded)
