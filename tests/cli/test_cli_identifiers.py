"""Identifiers planted in headers and file names are in nothing that reading a scan writes or prints."""

from collections.abc import Iterator
from pathlib import Path

import isal.igzip as igzip
import numpy as np
import pytest
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from medseg.core.geometry import Geometry
from medseg.core.volume import Labels
from medseg.io import write_labels
from tests.dicom_edits import both, put
from tests.dicom_files import Edit, Grid, make_uid, write_series
from tests.tiny import medseg

TEXTS = (
    *("PatientName", "PatientID", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName"),
    *("PatientAddress", "PatientTelephoneNumbers", "PatientComments", "MedicalRecordLocator", "Occupation"),
    *("AdditionalPatientHistory", "IssuerOfPatientID", "EthnicGroup", "CountryOfResidence"),
    *("AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription", "ProtocolName"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName"),
    *("DeviceSerialNumber", "ImageComments", "RequestedProcedureDescription", "AdmissionID"),
)
DATES = {"PatientBirthDate": "19530411", "StudyDate": "20170823", "AcquisitionDate": "20170824"}
DEEP = ("ReasonForTheRequestedProcedure", "ScheduledProcedureStepDescription", "RequestingPhysician")


def secret(name: str) -> str:
    """Return the text planted under a name: at most 16 letters, as the shortest representation holds."""
    return f"Zq{sum(map(ord, name))}{name[:5]}"


def plant(dataset: Dataset, k: int) -> None:
    """Put identifiers into 40 elements: at the top, two sequences deep, and private."""
    for name in TEXTS:
        setattr(dataset, name, secret(name))
    for name, date in DATES.items():
        setattr(dataset, name, date)
    inner, outer = Dataset(), Dataset()
    for name in DEEP[1:]:
        setattr(inner, name, secret(name))
    setattr(outer, DEEP[0], secret(DEEP[0]))
    outer.ReferencedStudySequence = Items([inner])
    dataset.RequestAttributesSequence = Items([outer])
    other = Dataset()
    other.PatientID = secret("other")
    dataset.OtherPatientIDsSequence = Items([other])
    block = dataset.private_block(0x0009, secret("creator"), create=True)
    block.add_new(0x01, "LO", secret("private"))
    block.add_new(0x02, "UN", secret("unknown").encode())


SECRETS = [
    *(secret(name) for name in (*TEXTS, *DEEP, "other", "creator", "private", "unknown")),
    *DATES.values(),
    *("Zqfolder", "Zqfile"),
    str(make_uid(1)),  # study, and so every UID below it
]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "Zqfolder"


def write(folder: Path, *more: Edit, **plan: object) -> None:
    with config.disable_value_validation():
        write_series(folder, name="{folder}/Zqfile_{k:03d}.dcm", edit=both(plant, *more), **plan)


def contents(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of all files, decompressed ones too."""
    for path in (path for folder in folders for path in folder.rglob("*")):
        yield path.name, path.name.encode()
        if path.is_file():
            yield path.name, path.read_bytes()
            if path.suffix == ".gz":
                yield path.name, igzip.decompress(path.read_bytes())


def leaks(text: bytes) -> list[str]:
    return [value for value in SECRETS if value.encode() in text]


def test_40_identifiers_are_planted(study: Path):
    write(study)
    stored = (study / "Zqfile_000.dcm").read_bytes()
    assert len(leaks(stored)) >= 40 and len(set(SECRETS)) == len(SECRETS)


@pytest.mark.parametrize("fault", ["", "gap", "damaged", "series", "tilt"])
def test_nothing_planted_leaves_through_inspect_and_convert(fault: str, study: Path, tmp_path: Path):
    write(study, grid=Grid(step_mm=(0, 0.5, 3)) if fault == "tilt" else Grid())
    if fault == "gap":
        (study / "Zqfile_002.dcm").unlink()
    elif fault == "damaged":
        (study / "Zqfile_002.dcm").write_bytes((study / "Zqfile_002.dcm").read_bytes()[:900])
    elif fault == "series":
        write(study / "more", series=2)
    seen = medseg("inspect", study, "--json", "-vv").stdout
    for options in ([], ["--series", "all", "--allow-tilt"]):
        result = medseg("convert", study, "-o", tmp_path / "OUT", "--json", "-vv", *options)
        assert result.exit_code == (0 if options and fault in {"series", "tilt"} else 3 if fault else 0)
        seen += result.stdout + result.stderr
    assert leaks(seen.encode()) == []
    found = [(name, leaks(content)) for name, content in contents(tmp_path / "OUT", tmp_path / "home")]
    assert [(name, values) for name, values in found if values] == []
    assert len(found) > 2


def test_to_dicom_keeps_identifiers_inside_the_objects(study: Path, tmp_path: Path):
    write(study)
    array = np.ones((7, 6, 5), np.uint8)
    write_labels(tmp_path / "m.nii.gz", Labels(array, Geometry((7, 6, 5), Grid().affine_ras)))
    options = ["--source", study, "-o", tmp_path / "OUT", "--format", "dicom-seg,rtstruct", "--json", "-vv"]
    result = medseg("to-dicom", tmp_path / "m.nii.gz", *options)
    assert result.exit_code == 0 and leaks((result.stdout + result.stderr).encode()) == []
    found = {name for name, content in contents(tmp_path / "OUT", tmp_path / "home") if leaks(content)}
    assert found == {"m.seg.dcm", "m.rtstruct.dcm"}


def test_only_patient_and_study_of_the_source_are_in_the_objects(study: Path, tmp_path: Path):
    write(study, put(StudyInstanceUID=make_uid(1)))
    array = np.ones((7, 6, 5), np.uint8)
    write_labels(tmp_path / "m.nii.gz", Labels(array, Geometry((7, 6, 5), Grid().affine_ras)))
    options = ["--source", study, "-o", tmp_path / "OUT", "--format", "dicom-seg,rtstruct"]
    medseg("to-dicom", tmp_path / "m.nii.gz", *options)
    unwanted = ("PatientAddress", "PatientTelephoneNumbers", "OperatorsName", "InstitutionName", "private")
    for path in (tmp_path / "OUT").glob("*.dcm"):
        content = path.read_bytes()
        assert [name for name in unwanted if secret(name).encode() in content] == []
