"""One file at a time: nothing identifying stays, and what cannot be cleaned is refused."""

from __future__ import annotations

import dataclasses
import logging
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import DicomDictionary, dictionary_is_retired, keyword_for_tag
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from medseg.core.errors import DataError
from medseg.io.dicom.deidentify.files import deidentify_file, may_show_text
from medseg.io.dicom.deidentify.identifiers import split_name, write_date
from medseg.io.dicom.deidentify.profile import TABLE, Policy, find_action
from medseg.io.dicom.elements import read_meta
from tests.dicom_cleaned import NAMES, PLAIN, SHIFT, clean, clean_slice
from tests.dicom_enhanced import one_item
from tests.dicom_files import Grid, Plan, Store, make_header, make_slice, make_uid, save
from tests.dicom_patient import count_errors, write_patient
from tests.dicom_planted import PATIENT_ID, Planted, is_in, plant, plant_file
from tests.dicom_seeds import rename_syntax

KINDS = ("CT", "MR", "enhanced", "RTSTRUCT", "SEG")
POLICIES = (PLAIN, SHIFT)
DEVICE = ("StationName", "DeviceSerialNumber", "DetectorID", "GantryID", "PlateID", "CassetteID")


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind of object, nothing planted; read only."""
    return write_patient(tmp_path_factory.mktemp("patient"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Planted]]:
    """A file of each kind of object with an identifier in every tag that may hold one; read only."""
    files = write_patient(tmp_path_factory.mktemp("planted"))
    found = {kind: (path, Planted()) for kind, path in files.items()}
    for path, identifiers in found.values():
        plant_file(path, identifiers)
    return found


def code_of(tmp_path: Path, dataset: Dataset, policy: Policy = PLAIN) -> str:
    """Return why a data set is refused, "" where it is not."""
    save(tmp_path / "source.dcm", dataset)
    try:
        clean(tmp_path / "source.dcm", tmp_path / "target.dcm", policy)
    except DataError as error:
        assert not (tmp_path / "target.dcm").exists()
        return error.code
    return ""


# ---- nothing identifying stays -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_identifiers_are_planted_in_more_than_a_hundred_places(planted, kind: str):
    assert len(planted[kind][1].texts) > 100


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.dates)
@pytest.mark.parametrize("kind", KINDS)
def test_no_planted_identifier_is_left_in_any_byte(planted, kind: str, policy: Policy, tmp_path: Path):
    source, identifiers = planted[kind]
    clean(source, tmp_path / "target.dcm", policy)
    data = (tmp_path / "target.dcm").read_bytes()
    assert [text for text in identifiers.texts if is_in(text, data)] == []


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_no_planted_identifier_is_left_in_another_transfer_syntax(syntax: UID, tmp_path: Path):
    dataset, identifiers = make_slice(Grid(), 0, Plan(store=Store(syntax=syntax))), Planted()
    plant(dataset, identifiers)
    save(tmp_path / "source.dcm", dataset, syntax)
    clean(tmp_path / "source.dcm", tmp_path / "target.dcm")
    data = (tmp_path / "target.dcm").read_bytes()
    if syntax.is_deflated:
        stream = BytesIO(data[132:])
        read_meta(stream)
        data = zlib.decompress(stream.read(), -zlib.MAX_WBITS)
    assert [text for text in identifiers.texts if is_in(text, data)] == []


def test_with_the_device_kept_the_rest_of_the_identifiers_goes(planted, tmp_path: Path):
    source, identifiers = planted["CT"]
    made = clean(source, tmp_path / "target.dcm", Policy(keep_device=True))
    left = {text for text in identifiers.texts if is_in(text, (tmp_path / "target.dcm").read_bytes())}
    kept = {str(made[word].value) for word in (*DEVICE, "DeviceUID", "PerformedStationName")}
    assert left <= kept | {str(made.DeviceDescription)[8:16]}


def test_the_device_stays_only_on_request(planted, tmp_path: Path):
    source = planted["CT"][0]
    before, without = dcmread(source), clean(source, tmp_path / "a.dcm")
    kept = clean(source, tmp_path / "b.dcm", Policy(keep_device=True))
    assert [kept[word].value for word in DEVICE] == [before[word].value for word in DEVICE]
    assert not [word for word in DEVICE if word in without and without[word].value == before[word].value]


def test_a_description_of_a_device_goes_if_it_names_the_patient(tmp_path: Path):
    made = clean_slice(tmp_path, Policy(keep_device=True), DeviceDescription="chair of Nobody")
    assert made.DeviceDescription == "REMOVED"


def test_names_are_found_in_texts_and_codes_that_would_have_stayed(tmp_path: Path):
    made = clean_slice(
        tmp_path, PatientID="AB-123456", SoftwareVersions="for NOBODY", ConvolutionKernel="B30f",
        SequenceName="03.02.1901", ViewPosition="AB-123456",
    )  # fmt: skip
    found = (made.SoftwareVersions, made.ConvolutionKernel, made.SequenceName, made.ViewPosition)
    assert found == ("REMOVED", "B30f", "REMOVED", "REMOVED")


def test_an_identifier_from_a_nested_item_is_searched_for_too(tmp_path: Path):
    made = clean_slice(
        tmp_path, OtherPatientIDsSequence=one_item(PatientID="XY-998877"), SequenceName="of XY-998877"
    )
    assert made.SequenceName == "REMOVED"


def test_of_what_the_table_does_not_list_personal_groups_go_and_codes_stay(tmp_path: Path):
    made = clean_slice(
        tmp_path,
        PatientSpeciesDescription="cat",
        ProcedureCodeSequence=one_item(LongCodeValue="a-long-code-of-17", CodeMeaning="kept"),
    )
    assert "PatientSpeciesDescription" not in made
    assert made.ProcedureCodeSequence[0].LongCodeValue == "a-long-code-of-17"


def test_retired_order_numbers_go(tmp_path: Path):
    words = (
        *("PlacerOrderNumberProcedure", "FillerOrderNumberProcedure"),
        *("PlacerOrderNumberImagingServiceRequestRetired", "FillerOrderNumberImagingServiceRequestRetired"),
    )
    made = clean_slice(tmp_path, **dict.fromkeys(words, "ORD-77120"), ImageID="of ORD-77120")
    assert not [word for word in words if word in made] and made.ImageID == "REMOVED"


def test_of_retired_attributes_only_those_that_the_table_lists_are_more_than_removed():
    retired = [tag for tag in DicomDictionary if dictionary_is_retired(tag) and tag not in TABLE]
    assert len(retired) > 300
    for policy in (PLAIN, SHIFT, Policy(keep_device=True)):
        assert {find_action(Tag(tag), None, policy)[0] for tag in retired} == {"remove"}


@pytest.mark.parametrize(
    "word",
    [
        *("OwnerID", "StorageMediaFileSetID", "ContactDisplayName", "ComponentWelderIDs", "BoardingPassID"),
        *("DoseComment", "SystemStatusComment", "TestResultComment", "SubstanceAdministrationNotes"),
        *("FrameOfReferenceTransformationComment", "HangingProtocolCreator", "NTPSourceAddress"),
        *("HangingProtocolUserGroupName", "WorklistLabel"),
    ],
)
def test_comments_and_owners_that_the_table_does_not_list_go(tmp_path: Path, word: str):
    assert word not in clean_slice(tmp_path, **{word: "he told me"})


def test_a_short_name_is_no_reason_to_remove_a_longer_word(tmp_path: Path):
    made = clean_slice(
        tmp_path, PatientName="Ann^Li", SequenceName="annulus", ScanOptions="LI", ImageID="of Ann"
    )
    assert (made.SequenceName, made.ScanOptions, made.ImageID) == ("annulus", "LI", "REMOVED")


def test_a_name_is_searched_for_as_a_whole_and_in_parts():
    found = set(split_name("Doe-Miller^Jo Ann^^Dr=山田^太郎", 3))
    assert found == {"Doe-Miller^Jo Ann^^Dr", "Doe-Miller", "Ann", "山田^太郎", "山田", "太郎"}


def test_a_birth_date_is_searched_for_as_people_write_it():
    assert {"19370419", "1937-04-19", "19.04.1937", "04/19/1937"} <= set(write_date("19370419"))
    assert list(write_date("1937")) == []


def test_preamble_and_file_header_are_new(planted, tmp_path: Path):
    source, _ = planted["CT"]
    made = clean(source, tmp_path / "target.dcm")
    assert made.preamble == b"\0" * 128
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    assert "SourceApplicationEntityTitle" not in made.file_meta and "PrivateInformation" not in made.file_meta


def test_private_overlay_curve_and_unknown_elements_are_gone(planted, tmp_path: Path):
    made = clean(planted["CT"][0], tmp_path / "target.dcm")
    groups = {element.tag.group for element in made}
    assert not {group for group in groups if group % 2 or group in {0x5000, 0x6000}}
    assert 0x00089871 not in made and 0xFFFCFFFC not in made


def test_the_table_is_whole():
    assert len(TABLE) == 652
    assert {keyword_for_tag(tag): TABLE[tag] for tag in (0x00100010, 0x00100020, 0x00080018, 0x00080080)} == {
        "PatientName": "Z",
        "PatientID": "Z_D",
        "SOPInstanceUID": "U",
        "InstitutionName": "X_Z_D",
    }


# ---- the verifier ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*POLICIES, Policy("shift", keep_device=True)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_verifier_finds_no_more_errors_than_before(patient, kind: str, policy: Policy, tmp_path: Path):
    clean(patient[kind], tmp_path / "target.dcm", policy)
    assert count_errors(tmp_path / "target.dcm") <= count_errors(patient[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_the_verifier_finds_no_more_errors_where_every_tag_is_there(planted, kind: str, tmp_path: Path):
    clean(planted[kind][0], tmp_path / "target.dcm")
    assert count_errors(tmp_path / "target.dcm") <= count_errors(planted[kind][0])


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "is_flagged"),
    [
        ({"BurnedInAnnotation": "YES"}, True),
        ({"Modality": "US"}, True),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, False),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, True),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.1"}, True),
        ({"ConversionType": "WSD"}, True),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, True),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, False),
        ({}, False),
    ],
)
def test_pictures_of_kinds_that_show_names_are_flagged(values: dict[str, object], is_flagged: bool):
    dataset = make_slice(Grid(), 0, Plan())
    dataset.update(values)
    assert may_show_text(dataset) is is_flagged


def test_what_has_no_pixels_shows_nothing():
    header = make_header("OT")
    assert not may_show_text(header)


def test_a_picture_that_may_show_a_name_is_refused(tmp_path: Path):
    dataset = make_slice(Grid(), 0, Plan())
    dataset.BurnedInAnnotation = "YES"
    assert code_of(tmp_path, dataset) == "DEID_BURNED_IN"
    notes = deidentify_file(
        tmp_path / "source.dcm", tmp_path / "target.dcm", Policy(allow_burned_in=True), NAMES, "P-1"
    )
    assert notes["DEID_BURNED_IN"] == 1


def test_a_report_is_refused(tmp_path: Path):
    report = make_header("SR")
    report.SOPClassUID, report.SOPInstanceUID = BasicTextSRStorage, make_uid(1, 1, 1)
    report.ContentSequence = one_item(ValueType="TEXT", TextValue="Mr Nobody is well")
    assert code_of(tmp_path, report) == "DEID_DOCUMENT"


def test_an_encapsulated_document_is_refused(tmp_path: Path):
    document = make_header("DOC")
    document.SOPClassUID, document.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.104.1", make_uid(1, 1, 1)
    document.EncapsulatedDocument = b"%PDF"
    assert code_of(tmp_path, document) == "DEID_DOCUMENT"


def test_a_name_in_a_compressor_s_comment_is_refused(tmp_path: Path):
    dataset = make_slice(Grid(), 0, Plan())
    dataset.PatientID = PATIENT_ID
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xfe\x00\x10" + PATIENT_ID.encode() + b"\xff\xd9"])
    dataset["PixelData"].VR = "OB"
    save(tmp_path / "source.dcm", dataset, "1.2.840.10008.1.2.4.70")
    with pytest.raises(DataError) as caught:
        clean(tmp_path / "source.dcm", tmp_path / "target.dcm")
    assert caught.value.code == "DEID_PIXEL_TEXT" and PATIENT_ID not in str(caught.value)


def test_a_file_that_ends_inside_its_last_element_is_refused(patient, tmp_path: Path):
    data = patient["RTSTRUCT"].read_bytes()
    (tmp_path / "source.dcm").write_bytes(data[:-3])
    with pytest.raises(DataError) as caught:
        clean(tmp_path / "source.dcm", tmp_path / "target.dcm")
    assert caught.value.code == "DICOM_TRUNCATED"


def test_a_file_that_ends_inside_a_sequence_is_refused(patient, tmp_path: Path):
    dataset = dcmread(patient["RTSTRUCT"])
    dataset["RTROIObservationsSequence"].is_undefined_length = True
    dataset.save_as(tmp_path / "whole.dcm")
    (tmp_path / "source.dcm").write_bytes((tmp_path / "whole.dcm").read_bytes()[:-12])
    with pytest.raises(DataError) as caught:
        clean(tmp_path / "source.dcm", tmp_path / "target.dcm")
    assert caught.value.code == "DICOM_DAMAGED" and not (tmp_path / "target.dcm").exists()


def test_a_file_that_cannot_be_put_together_again_leaves_no_half_of_one(tmp_path: Path):
    save(tmp_path / "native.dcm", make_slice(Grid(), 0, Plan()))
    claimed = rename_syntax((tmp_path / "native.dcm").read_bytes(), "1.2.840.10008.1.2.4.70")
    (tmp_path / "source.dcm").write_bytes(claimed)
    with pytest.raises(DataError) as caught:
        clean(tmp_path / "source.dcm", tmp_path / "target.dcm")
    assert caught.value.code == "DICOM_DAMAGED" and not (tmp_path / "target.dcm").exists()


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_file(patient, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        clean(patient["CT"], tmp_path / "nowhere" / "target.dcm")


@pytest.mark.parametrize("at", [0.35, 0.5, 0.65])
def test_a_file_with_a_damaged_middle_is_refused_or_written_but_never_crashes(
    patient, at: float, tmp_path: Path
):
    data = bytearray(patient["SEG"].read_bytes())
    cut = int(len(data) * at)
    data[cut : cut + 4] = b"\xff\xff\xff\x7f"
    (tmp_path / "source.dcm").write_bytes(data)
    try:
        clean(tmp_path / "source.dcm", tmp_path / "target.dcm")
    except DataError as error:
        assert error.code.startswith("DICOM_")


def test_no_header_value_reaches_a_log_or_the_terminal(planted, tmp_path: Path, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        clean(planted["CT"][0], tmp_path / "target.dcm")
    captured = capfd.readouterr()
    assert caplog.text + captured.out + captured.err == ""


def test_a_policy_says_all_there_is_to_choose():
    assert [field.name for field in dataclasses.fields(Policy)] == ["dates", "keep_device", "allow_burned_in"]


# ---- real scans --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.dates)
@pytest.mark.parametrize("folder", ["sts_dicom/STS_001/dicom", "mr_dicom/Study1"])
def test_real_files_pass_the_verifier_as_well_as_before(
    medseg_data: Path, folder: str, policy: Policy, tmp_path: Path
):
    checked = 0
    for home in sorted({path.parent for path in (medseg_data / folder).rglob("*") if path.is_file()}):
        files = sorted(path for path in home.iterdir() if path.is_file())
        for source in {files[0], files[-1]}:
            made = clean(source, tmp_path / "target.dcm", policy)
            assert count_errors(tmp_path / "target.dcm") <= count_errors(source)
            if "PixelData" in made:
                assert made.PixelData == dcmread(source).PixelData
            checked += 1
    assert checked >= 4
