"""What stands in the place of what was removed, and what is not touched."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medseg.core.errors import FormatError
from medseg.io.dicom.deidentify.cleaner import Cleaner
from medseg.io.dicom.deidentify.identifiers import Identifiers
from medseg.io.dicom.deidentify.profile import Policy
from medseg.io.dicom.deidentify.pseudonyms import MAX_SHIFT_DAYS, Pseudonyms
from tests.dicom_cleaned import KEY, NAMES, SHIFT, clean, clean_slice
from tests.dicom_enhanced import one_item
from tests.dicom_files import Grid, Plan, Store, make_slice, save, write_series
from tests.dicom_patient import write_patient, write_rtstruct


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind of object, nothing planted; read only."""
    return write_patient(tmp_path_factory.mktemp("patient"))


# ---- what stands in its place ------------------------------------------------------------------------------


def test_the_patient_is_a_pseudonym_and_it_is_said_what_was_done(tmp_path: Path):
    made = clean_slice(tmp_path, Policy("shift", keep_device=True))
    assert made.PatientName == made.PatientID == NAMES.name_patient("P-1")
    assert (made.PatientIdentityRemoved, made.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")
    codes = [item.CodeValue for item in made.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113109"]


def test_without_options_dates_are_said_to_be_removed(tmp_path: Path):
    made = clean_slice(tmp_path)
    assert made.LongitudinalTemporalInformationModified == "REMOVED"
    assert [item.CodeValue for item in made.DeidentificationMethodCodeSequence] == ["113100"]


def test_uids_that_say_what_something_is_stay(tmp_path: Path):
    talairach, source = "1.2.840.10008.1.4.1.1", make_slice(Grid(), 0, Plan())
    made = clean_slice(tmp_path, FrameOfReferenceUID=talairach)
    assert (made.FrameOfReferenceUID, made.SOPClassUID) == (talairach, source.SOPClassUID)


def test_uids_that_say_which_one_are_made_of_a_uuid(tmp_path: Path):
    made = clean_slice(tmp_path)
    for uid in (made.SOPInstanceUID, made.SeriesInstanceUID, made.StudyInstanceUID, made.FrameOfReferenceUID):
        assert uid.is_valid and uid.startswith("2.25.") and int(uid[5:]) < 1 << 128


def test_another_key_gives_other_pseudonyms():
    other = Pseudonyms(b"another")
    assert NAMES.map_uid("1.2.3") == Pseudonyms(KEY).map_uid("1.2.3") != other.map_uid("1.2.3")
    assert NAMES.name_patient("a") != other.name_patient("a") and NAMES.name_label("a") != other.name_label(
        "a"
    )


def test_equal_names_of_regions_stay_equal_and_others_differ(tmp_path: Path):
    write_series(tmp_path / "ct", Grid(at=(0.0, 1.0)))
    write_rtstruct(tmp_path / "r.dcm", tmp_path / "ct", ("GTV", "Lung", "GTV"))
    made = clean(tmp_path / "r.dcm", tmp_path / "target.dcm")
    first, second, third = (region.ROIName for region in made.StructureSetROISequence)
    assert first == third == NAMES.name_label("GTV") != second


# ---- dates -------------------------------------------------------------------------------------------------


def test_shifted_dates_keep_their_distances_and_times(tmp_path: Path):
    made = clean_slice(
        tmp_path, SHIFT, StudyDate="20200301", SeriesDate="20200228", StudyTime="101112.25",
        AcquisitionDateTime="20200302235959.5+0100", TimezoneOffsetFromUTC="+0100",
        RadiopharmaceuticalInformationSequence=one_item(RadiopharmaceuticalStartDateTime="20200301080000"),
    )  # fmt: skip
    injected = made.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime
    days = [
        datetime.strptime(str(text)[:8], "%Y%m%d").toordinal()
        for text in (made.StudyDate, made.SeriesDate, made.AcquisitionDateTime, injected)
    ]
    moved = datetime(2020, 3, 1).toordinal() - days[0]
    assert moved == NAMES.find_shift_days("P-1")
    assert [day - days[0] for day in days] == [0, -2, 1, 0]
    assert (made.StudyTime, made.AcquisitionDateTime[8:], injected[8:]) == (
        "101112.25",
        "235959.5+0100",
        "080000",
    )
    assert made.TimezoneOffsetFromUTC == "+0100"


def test_a_birth_date_is_not_shifted_but_removed(tmp_path: Path):
    assert clean_slice(tmp_path, SHIFT, PatientBirthDate="19370419").PatientBirthDate == ""


def test_what_is_no_whole_date_cannot_be_shifted(tmp_path: Path):
    made = clean_slice(
        tmp_path,
        SHIFT,
        AcquisitionDateTime="202003",
        StudyDate="",
        SeriesDate="20201399",
        ContentDate="00010101",
    )
    found = (made.AcquisitionDateTime, made.StudyDate, made.SeriesDate, made.ContentDate)
    assert found == ("19000101000000", "", "19000101", "19000101")


def test_an_old_way_to_write_dates_is_understood(tmp_path: Path):
    new, old = (clean_slice(tmp_path, SHIFT, StudyDate=text) for text in ("20200301", "2020.03.01"))
    assert old.StudyDate == new.StudyDate != ""


def test_patients_are_shifted_by_days_of_their_own():
    days = {NAMES.find_shift_days(f"P-{number}") for number in range(50)}
    assert len(days) > 40 and min(days) >= 1 and max(days) <= MAX_SHIFT_DAYS


def test_removed_dates_are_empty_or_say_nothing(tmp_path: Path):
    made = clean_slice(tmp_path, AcquisitionDateTime="20200302235959")
    found = (made.StudyDate, made.SeriesDate, made.StudyTime, made.AcquisitionDateTime)
    assert found == ("", "19000101", "", "19000101000000")


# ---- what stays --------------------------------------------------------------------------------------------

GEOMETRY = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope"),
    *("RescaleIntercept", "Rows", "Columns", "BitsStored", "PatientPosition", "Modality", "InstanceNumber"),
)


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
    ],
    ids=lambda syntax: syntax.name,
)
def test_pixels_geometry_and_transfer_syntax_stay(syntax: UID, tmp_path: Path):
    write_series(tmp_path / "in", Grid(at=(0.0,)), store=Store(syntax=syntax))
    (source,) = (tmp_path / "in").iterdir()
    before, made = dcmread(source), clean(source, tmp_path / "target.dcm")
    assert made.file_meta.TransferSyntaxUID == syntax
    assert made.PixelData == before.PixelData
    assert [str(made[word].value) for word in GEOMETRY] == [str(before[word].value) for word in GEOMETRY]


@pytest.mark.parametrize("kind", ["enhanced", "SEG"])
def test_frames_and_their_places_stay(patient, kind: str, tmp_path: Path):
    before, made = dcmread(patient[kind]), clean(patient[kind], tmp_path / "target.dcm")
    assert np.array_equal(made.pixel_array, before.pixel_array)
    places = [
        [
            frame.PlanePositionSequence[0].ImagePositionPatient
            for frame in one.PerFrameFunctionalGroupsSequence
        ]
        for one in (before, made)
    ]
    assert places[0] == places[1] and len(places[0]) == 3


def test_contours_stay(patient, tmp_path: Path):
    before, made = dcmread(patient["RTSTRUCT"]), clean(patient["RTSTRUCT"], tmp_path / "target.dcm")
    shapes = [
        [region.ContourSequence[0].ContourData for region in one.ROIContourSequence] for one in (before, made)
    ]
    assert shapes[0] == shapes[1]


def test_a_text_that_stays_keeps_its_very_bytes(tmp_path: Path):
    odd = b" v1 \xe9\xff  "  # no UTF-8, though the file says so
    dataset = make_slice(Grid(), 0, Plan())
    dataset.SpecificCharacterSet, dataset.SoftwareVersions = "ISO_IR 192", "ABCDEFGH"
    save(tmp_path / "source.dcm", dataset)
    data = (tmp_path / "source.dcm").read_bytes()
    (tmp_path / "source.dcm").write_bytes(data.replace(b"ABCDEFGH", odd))
    clean(tmp_path / "source.dcm", tmp_path / "target.dcm")
    assert odd in (tmp_path / "target.dcm").read_bytes()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_file_without_a_header_is_written_with_one(syntax: UID, tmp_path: Path):
    save(tmp_path / "part10.dcm", make_slice(Grid(), 0, Plan(store=Store(syntax=syntax))), syntax)
    data = (tmp_path / "part10.dcm").read_bytes()
    first = b"\0\x08\0\x05" if syntax == ExplicitVRBigEndian else b"\x08\0\x05\0"
    (tmp_path / "bare").write_bytes(data[data.index(first) :])
    made = clean(tmp_path / "bare", tmp_path / "target.dcm")
    assert made.file_meta.TransferSyntaxUID == syntax
    assert made.PixelData == dcmread(tmp_path / "part10.dcm").PixelData


def test_absurd_nesting_is_refused_before_it_is_written():
    dataset = innermost = Dataset()
    for _ in range(40):
        innermost.ReferencedImageSequence = [Dataset()]
        innermost = innermost.ReferencedImageSequence[0]
    cleaner = Cleaner(Policy(), Pseudonyms(b"key"), "P-1", Identifiers(Dataset()))
    with pytest.raises(FormatError) as caught:
        cleaner.clean(dataset)
    assert caught.value.code == "DICOM_HEADER"
