"""deidentify: folders in, folders out; references stay whole, and nothing is copied that should not be."""

from __future__ import annotations

import json
import re
import shutil
from datetime import date
from pathlib import Path

import pytest
from click.testing import Result
from pydicom import Dataset, dcmread

from tests.dicom_files import Grid, Plan, make_slice, make_uid, save, write_series
from tests.dicom_patient import write_patient
from tests.dicom_planted import Planted, is_in, plant_file
from tests.tiny import document, hashes, medseg


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site of its own, not yet used."""
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """CT (3 files), MR (3), enhanced MR, RTSTRUCT and SEG of one patient."""
    write_patient(tmp_path / "in")
    return tmp_path / "in"


def run(study: Path, *options: object, out: str = "out") -> Result:
    return medseg("deidentify", study, "-o", study.parent / out, "--json", *options)


def read_all(folder: Path) -> dict[str, list[Dataset]]:
    """Return what was written: modality or "enhanced" -> files."""
    found: dict[str, list[Dataset]] = {}
    for path in sorted(folder.rglob("*.dcm")):
        dataset = dcmread(path)
        is_enhanced = dataset.Modality == "MR" and "NumberOfFrames" in dataset
        found.setdefault("enhanced" if is_enhanced else dataset.Modality, []).append(dataset)
    return found


def only_case(result: Result) -> dict[str, object]:
    (case,) = document(result)["cases"]
    return case


# ---- whole folders -----------------------------------------------------------------------------------------


def test_every_series_is_written_under_pseudonyms(study: Path, tmp_path: Path):
    result = run(study)
    tree = document(result)
    assert result.exit_code == 0
    assert tree["files"] == {"written": 9, "unchanged": 0, "refused": 0, "not_dicom": 0}
    assert [case["status"] for case in tree["cases"]] == ["done"] * 5
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.dcm")}
    shape = re.compile(r"PSN-[0-9a-f]{12}/study-[0-9a-f]{12}/dcm-[0-9a-f]{12}/[0-9a-f]{16}\.dcm")
    assert len(names) == 9 and all(shape.fullmatch(name) for name in names)


def test_structures_and_segmentations_still_refer_to_their_images(study: Path, tmp_path: Path):
    run(study)
    found = read_all(tmp_path / "out")
    images = {one.SOPInstanceUID for one in found["CT"]}
    (structures,), (segments,) = found["RTSTRUCT"], found["SEG"]
    frame = structures.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence} == images
    assert series.SeriesInstanceUID == found["CT"][0].SeriesInstanceUID
    assert frame.FrameOfReferenceUID == found["CT"][0].FrameOfReferenceUID == segments.FrameOfReferenceUID
    (referenced,) = segments.ReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == images


def test_a_patient_and_a_study_stay_one_and_series_stay_apart(study: Path, tmp_path: Path):
    run(study)
    files = [one for some in read_all(tmp_path / "out").values() for one in some]
    assert len({one.PatientID for one in files}) == len({one.StudyInstanceUID for one in files}) == 1
    assert len({one.SeriesInstanceUID for one in files}) == 5


def test_two_runs_give_the_same_bytes(study: Path, tmp_path: Path):
    for out in ("a", "b"):
        run(study, "--dates", "shift", out=out)
    first, second = (hashes(tmp_path / out) for out in ("a", "b"))
    assert first.pop("report.json") and second.pop("report.json") and first == second
    assert len(first) == 9 + 5 + 1  # files, records, the policy


def test_another_site_gives_other_names(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(study, out="a")
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "elsewhere"))
    run(study, out="b")
    first, second = ({path.name for path in (tmp_path / out).rglob("*.dcm")} for out in ("a", "b"))
    assert not first & second


def test_no_planted_identifier_is_in_any_file_or_name_or_on_the_terminal(tmp_path: Path):
    files, planted = write_patient(tmp_path / "in"), Planted()
    for path in files.values():
        plant_file(path, planted)
    (tmp_path / "in" / planted.text()).mkdir()
    shutil.move(files["CT"], tmp_path / "in" / planted.texts[-1] / f"{planted.text()}.dcm")
    (tmp_path / "in" / planted.text()).write_bytes(files["MR"].read_bytes()[:400])
    result = run(tmp_path / "in", "-v")
    texts = result.stdout + result.stderr
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    data = b"\n".join([texts.encode(), *(path.read_bytes() + str(path).encode() for path in written)])
    assert len(written) > 9 and result.exit_code == 3
    assert [text for text in planted.texts if is_in(text, data)] == []


def test_the_case_is_called_as_other_commands_call_it(study: Path):
    shutil.rmtree(study / "mr")
    made = {case["id"] for case in document(run(study))["cases"]}
    seen = document(medseg("inspect", study, "--json"))
    assert {series["series_id"] for series in seen["series"]} <= made


def test_one_file_is_enough(study: Path):
    assert document(run(study / "rt" / "r.dcm", out="../one"))["files"]["written"] == 1


# ---- again -------------------------------------------------------------------------------------------------


def test_what_is_done_is_skipped(study: Path, tmp_path: Path):
    run(study)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.dcm")}
    tree = document(run(study))
    assert {case["status"] for case in tree["cases"]} == {"skipped"} and tree["files"]["unchanged"] == 9
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_is_missing_or_changed_is_written_again(study: Path, tmp_path: Path):
    run(study)
    missing = next(path for path in (tmp_path / "out").rglob("*.dcm") if dcmread(path).Modality == "CT")
    missing.unlink()
    changed = dcmread(study / "rt" / "r.dcm")
    changed.SeriesNumber = 77
    changed.save_as(study / "rt" / "r.dcm")
    assert document(run(study))["files"]["written"] == 2
    assert missing.exists() and read_all(tmp_path / "out")["RTSTRUCT"][0].SeriesNumber == 77


def test_a_file_that_is_refused_now_leaves_no_older_copy(study: Path, tmp_path: Path):
    run(study)
    path = study / "mr" / "slice_000.dcm"
    dataset = dcmread(path)
    dataset.BurnedInAnnotation = "YES"
    dataset.save_as(path)
    tree = document(run(study))
    assert tree["files"] == {"written": 0, "unchanged": 6, "refused": 3, "not_dicom": 0}
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 6


@pytest.mark.parametrize(
    ("options", "named"), [(["--dates", "shift"], "dates"), (["--keep-device"], "keep_device")]
)
def test_a_folder_made_otherwise_is_refused(study: Path, options: list[str], named: str):
    run(study)
    result = run(study, *options)
    assert (result.exit_code, result.stderr.split()[0]) == (2, "CONFIG_CHANGED") and named in result.stderr


# ---- what is not copied ------------------------------------------------------------------------------------


def test_other_files_are_counted_and_not_copied(study: Path, tmp_path: Path):
    (study / "notes of Nobody.txt").write_text("Nobody")
    result = run(study)
    assert (result.exit_code, document(result)["files"]["not_dicom"]) == (0, 1)
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".dcm", ".json"}


def test_damaged_and_cut_off_files_are_reported_and_not_copied(study: Path, tmp_path: Path):
    data = (study / "ct" / "slice_001.dcm").read_bytes()
    (study / "ct" / "slice_001.dcm").write_bytes(data[:-20])
    (study / "a.dcm").write_bytes(data[:200])
    result = run(study)
    codes = sorted(str(case["code"]) for case in document(result)["cases"] if case["status"] == "rejected")
    assert (result.exit_code, codes) == (3, ["DICOM_DAMAGED", "DICOM_TRUNCATED"])
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 6


def test_a_damaged_file_is_named_by_its_number(study: Path):
    (study / "a.dcm").write_bytes((study / "rt" / "r.dcm").read_bytes()[:200])
    assert document(run(study))["cases"][-1]["id"] == "file-000001"


def test_pictures_that_may_show_a_name_are_refused_unless_allowed(tmp_path: Path):
    write_series(tmp_path / "in", Grid(), edit=lambda one, k: setattr(one, "BurnedInAnnotation", "YES"))
    refused = run(tmp_path / "in")
    assert (refused.exit_code, only_case(refused)["code"]) == (3, "DEID_BURNED_IN")
    assert "--allow-burned-in" in str(only_case(refused)["hint"])
    allowed = run(tmp_path / "in", "--allow-burned-in")
    (warning,) = only_case(allowed)["warnings"]
    assert (allowed.exit_code, warning["code"]) == (0, "DEID_BURNED_IN") and warning["message"][0] == "5"
    again = run(tmp_path / "in", "--allow-burned-in")
    assert only_case(again)["status"] == "skipped" and only_case(again)["warnings"] == [warning]
    assert run(tmp_path / "in").exit_code == 3 and not list((tmp_path / "out").rglob("*.dcm"))


def test_texts_that_held_an_identifier_are_counted(tmp_path: Path):
    write_series(tmp_path / "in", Grid(), edit=lambda one, k: setattr(one, "SequenceName", "for Nobody"))
    (warning,) = only_case(run(tmp_path / "in"))["warnings"]
    assert warning["code"] == "DEID_TEXT" and warning["message"].startswith("5 texts")


def test_the_same_file_twice_is_written_once(study: Path):
    shutil.copytree(study / "ct", study / "copy")
    tree = document(run(study))
    assert (tree["exit_code"], tree["files"]["written"], tree["files"]["refused"]) == (0, 9, 0)


def test_of_two_different_files_with_one_uid_the_second_is_refused(study: Path):
    other = dcmread(study / "ct" / "slice_000.dcm")
    other.KVP = 99
    other.save_as(study / "ct" / "z.dcm")
    result = run(study)
    assert result.exit_code == 3 and "DEID_DUPLICATE" in result.stderr
    assert document(result)["files"]["written"] == 6


def test_a_file_without_uids_is_refused(tmp_path: Path):
    dataset = make_slice(Grid(), 0, Plan())
    del dataset.StudyInstanceUID
    save(tmp_path / "in" / "a.dcm", dataset)
    assert only_case(run(tmp_path / "in"))["code"] == "DICOM_HEADER"


@pytest.mark.parametrize("out", ["in", "in/below", "."])
def test_the_output_may_not_overlap_the_source(study: Path, out: str):
    result = run(study, out=out)
    assert (result.exit_code, result.stderr.split()[0]) == (2, "OUT_HOLDS_INPUT")


def test_dates_are_removed_or_shifted_and_nothing_else(study: Path):
    result = run(study, "--dates", "keep")
    assert (result.exit_code, result.stderr.split()[0]) == (2, "UNKNOWN_NAME") and "shift" in result.stderr


def test_a_folder_without_dicom_has_no_cases(tmp_path: Path):
    (tmp_path / "in").mkdir()
    result = run(tmp_path / "in")
    assert (result.exit_code, result.stderr.split()[0]) == (3, "NO_CASES")
    assert (run(tmp_path / "nowhere").exit_code, (tmp_path / "out").exists()) == (2, False)


def test_a_dry_run_writes_nothing(study: Path, tmp_path: Path, home: Path):
    tree = document(run(study, "--dry-run"))
    assert tree["dry_run"] == {"files": 9, "series": 5, "damaged": 0, "not_dicom": 0}
    assert not (tmp_path / "out").exists() and not home.exists()


# ---- dates and patients ------------------------------------------------------------------------------------


def test_studies_of_one_patient_are_shifted_alike_and_of_another_by_other_days(tmp_path: Path):
    dates = {"P-1": ("20200101", "20200131"), "P-2": ("20200101", "20200131")}
    for patient, days in dates.items():
        for number, day in enumerate(days, start=1):
            study = int(patient[-1]) * 10 + number

            def edit(one: Dataset, _: int, day: str = day) -> None:
                one.StudyDate = day

            write_series(tmp_path / "in" / f"{study}", Grid(), study=study, patient=patient, edit=edit)
    assert run(tmp_path / "in", "--dates", "shift").exit_code == 0
    found: dict[str, set[str]] = {}
    for one in read_all(tmp_path / "out")["CT"]:
        found.setdefault(str(one.PatientID), set()).add(str(one.StudyDate))
    gaps, firsts = set(), set()
    for days in found.values():
        first, second = sorted(date(int(day[:4]), int(day[4:6]), int(day[6:])) for day in days)
        gaps.add((second - first).days)
        firsts.add(first)
    assert len(found) == 2 and gaps == {30} and len(firsts) == 2


def test_a_file_without_a_patient_id_goes_by_the_name(tmp_path: Path):
    for number in (1, 2):
        dataset = make_slice(Grid(), 0, Plan(study=number))
        dataset.PatientID, dataset.SOPInstanceUID = "", make_uid(number, 1, 1)
        save(tmp_path / "in" / f"{number}.dcm", dataset)
    run(tmp_path / "in")
    assert len({one.PatientID for one in read_all(tmp_path / "out")["CT"]}) == 1


def test_the_report_holds_no_path(study: Path, tmp_path: Path):
    run(study)
    text = (tmp_path / "out" / "report.json").read_text()
    assert str(tmp_path) not in text and json.loads(text)["command"] == "deidentify"


def test_real_scans_keep_their_pixels(medseg_data: Path, tmp_path: Path):
    source = medseg_data / "mr_dicom" / "Study1" / "13_HCropVolume"
    medseg("deidentify", source, "-o", tmp_path / "out")
    before = {dcmread(path).PixelData for path in source.iterdir()}
    assert before == {one.PixelData for one in read_all(tmp_path / "out")["MR"]}


def test_series_beside_a_damaged_file_is_not_written_without_that_slice(study: Path, tmp_path: Path):
    (study / "ct" / "slice_002.dcm").write_bytes((study / "ct" / "slice_002.dcm").read_bytes()[:300])
    tree = document(run(study))
    assert [case["code"] for case in tree["cases"] if case["status"] == "rejected"] == ["DICOM_DAMAGED"] * 2
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 6
    assert all(case["outputs"] == [] for case in tree["cases"] if case["status"] == "rejected")
