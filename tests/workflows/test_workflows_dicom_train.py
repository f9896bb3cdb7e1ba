"""DICOM with RTSTRUCT labels to a reviewed model, and masks back to DICOM; no identifier stays."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from pydicom import config, dcmread
from pydicom.dataset import Dataset

from medseg.core.errors import DataError
from medseg.io import read_geometry, read_labels
from medseg.io.dicom import find_series
from medseg.io.dicom.labels.rtstruct import read_rtstruct
from medseg.io.dicom.labels.seg import read_seg
from medseg.io.dicom.scan import Scan
from medseg.workflows.run_folder import RunFolder
from tests.dicom_cohort import write_dicom_cohort, write_scan
from tests.dicom_files import AXIAL, ROOT, write_series
from tests.dicom_planted import PATIENT_ID, Planted, is_in, plant
from tests.tiny import document, hashes, make_case, medseg, write_settings

RULE = ("--set", "data.channels.ct.series.modality=CT")
ROIS = ("--set", 'data.rois={"#1": 1, "#2": 2}')  # names of structures are planted too
CODES = (
    "--set",
    "data.codes={1: 'SCT:78961009:Spleen'}",
    "--set",
    "data.code_categories={2: 'SCT:49755003:x'}",
)
ALL = "nifti,dicom-seg,rtstruct"
NAMES = {1: "organ", 2: "lesion"}


@pytest.fixture(scope="module")
def planted() -> Planted:
    """Identifiers, each in a tag of its own; the same ones in every file."""
    return Planted()


@pytest.fixture(scope="module")
def cohort(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients with CT and MR, each with an RTSTRUCT, full of identifiers."""
    root = write_dicom_cohort(tmp_path_factory.mktemp("dicom") / "data", kinds=("CT", "MR"))
    for number, patient in enumerate(sorted(root.iterdir())):
        for path in patient.rglob("*.dcm"):
            own = Planted()
            dataset = dcmread(path)
            plant(dataset, own)
            dataset.PatientID = f"{PATIENT_ID}-{number}"
            with config.disable_value_validation():
                dataset.save_as(path)
            path.rename(path.with_name(f"{PATIENT_ID}_{path.name}"))
        patient.rename(root / f"Zolwinska_{PATIENT_ID}_{number}")
    planted.texts[:] = [*own.texts, "Zolwinska", ROOT]  # all UIDs begin with it
    write_settings(root.parent)
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tracking folder of the module's commands."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MEDSEG_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def made(cohort: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN of `run`, RUN2 of `preprocess` and `train`, OUT of `infer`, CHECK of a fault; what they printed."""
    folder = tmp_path_factory.mktemp("made")
    broken = Path(shutil.copytree(cohort, tmp_path_factory.mktemp("broken") / "data"))
    sorted(some(broken).iterdir())[4].unlink()
    settings = ("--data", cohort, "--config", cohort.parent / "tiny.yaml", *RULE, *ROIS, *CODES)
    for verb, *words in (
        ("run", "phantom_ct", *settings, "-o", folder / "RUN"),
        ("preprocess", "phantom_ct", *settings, "-o", folder / "RUN2", "--pseudonymize"),
        ("train", folder / "RUN2", "--no-tracking"),
        ("infer", cohort, "-m", folder / "RUN", "-o", folder / "OUT", "--format", ALL, "--threads", 1),
        ("check", "phantom_ct", "--data", broken, *ROIS, "-o", folder / "CHECK"),
    ):
        result = medseg(verb, *words, "--json", "-v")
        assert result.exit_code == (3 if verb == "check" else 0), result.stderr
        (folder / f"{verb}.json").write_text(result.stdout)
        (folder / f"{verb}.txt").write_text(result.stderr)
    return folder


def report(made: Path, verb: str) -> dict[str, Any]:
    tree = json.loads((made / f"{verb}.json").read_text())
    assert isinstance(tree, dict)
    return tree


def infer(*words: object) -> Result:
    return medseg("infer", *words, "--threads", 1, "--json")


def scan_of(folder: Path) -> Scan:
    """Return the scan of a folder that holds one."""
    (candidate,) = [c for series in find_series(folder).series if series.is_image for c in series.candidates]
    assert candidate.scan is not None
    return candidate.scan


def some(cohort: Path, kind: str = "CT") -> Path:
    return next(path for path in sorted(cohort.rglob("image")) if path.parent.name == kind)


def test_a_cohort_with_structures_is_learnt_from_end_to_end(made: Path):
    tree = report(made, "run")
    assert {case["status"] for case in tree["cases"]} == {"done"} and len(tree["cases"]) == 6
    assert tree["metrics"]["labels"]["1"]["n"] == 3
    assert (made / "RUN/model/MODEL_CARD.md").exists() and (
        made / "RUN/evaluation/overlays/best.png"
    ).exists()


def test_the_rule_picks_the_series_and_its_structures(made: Path):
    # Box 1 has a hole where box 2 is: both as drawn, voxel by voxel, on axes that run to the left and back.
    references = (made / "RUN/store").glob("*/reference.nii.gz")
    stored = sorted(read_labels(path).array[::-1, ::-1].tobytes() for path in references)
    assert stored == sorted(make_case(number)[1].array.tobytes() for number in range(6))


def test_the_check_notes_the_modality(made: Path):
    assert set(RunFolder(made / "RUN").modalities().values()) == {"CT"}


def test_ids_are_pseudonyms_and_the_same_everywhere(made: Path):
    names = {case["id"] for case in report(made, "run")["cases"]}
    assert all(name.startswith("dcm-") and len(name) == 16 for name in names)
    assert names == {case["id"] for case in report(made, "infer")["cases"]}
    assert names == {path.name for path in (made / "RUN2/store").iterdir()}


def test_what_is_faulty_or_ambiguous_is_told_in_codes_and_numbers(made: Path):
    cases = report(made, "check")["cases"]
    assert [case["code"] for case in cases] == ["SERIES_AMBIGUOUS"] * 6  # CT or MR: there was no rule
    assert sum("9 slices, refused (DICOM_GAP)" in case["message"] for case in cases) == 1


def test_train_goes_on_from_what_preprocess_stored(made: Path):
    weights = "model/weights_fold_0.safetensors"
    assert (made / "RUN" / weights).read_bytes() == (made / "RUN2" / weights).read_bytes()


def test_the_same_command_again_skips_every_case(made: Path, cohort: Path, tmp_path: Path):
    out = Path(shutil.copytree(made / "OUT", tmp_path / "OUT"))
    before = {name: digest for name, digest in hashes(out).items() if name != "report.json"}
    result = infer(cohort, "-m", made / "RUN", "-o", out, "--format", ALL)
    assert {case["status"] for case in document(result)["cases"]} == {"skipped"}
    assert before.items() <= hashes(out).items()


def test_a_mask_is_written_as_nifti_seg_and_rtstruct_of_one_content(made: Path, cohort: Path, tmp_path: Path):
    images = some(cohort)
    result = infer(images, "-m", made / "RUN", "-o", tmp_path, "--format", ALL)
    (case,) = document(result)["cases"]
    assert case["outputs"] == [case["id"] + end for end in (".nii.gz", ".seg.dcm", ".rtstruct.dcm", ".json")]
    scan, mask = scan_of(images), read_labels(tmp_path / case["outputs"][0])
    assert mask.geometry.differs_from(scan.geometry) == "" and mask.array.any()
    for read, name in ((read_seg, case["outputs"][1]), (read_rtstruct, case["outputs"][2])):
        assert np.array_equal(read(tmp_path / name, scan, {}, labels=NAMES).array, mask.array)


def test_a_segmentation_says_in_codes_what_its_segments_are(made: Path):
    segments = dcmread(next((made / "OUT").glob("*.seg.dcm"))).SegmentSequence
    assert segments[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "78961009"
    assert segments[1].SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert {segment.SegmentAlgorithmName for segment in segments} == {"medseg phantom_ct"}


def test_a_case_whose_object_cannot_be_written_leaves_nothing(
    made: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    infer(some(cohort), "-m", made / "RUN", "-o", tmp_path)

    def refuse(*arguments: object, **options: object) -> None:
        raise DataError("no UIDs", code="LABEL_REFERENCE")

    monkeypatch.setattr("medseg.io.dicom.labels.seg.write_seg", refuse)
    result = infer(some(cohort), "-m", made / "RUN", "-o", tmp_path, "--format", ALL)
    assert document(result)["cases"][0]["code"] == "LABEL_REFERENCE"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_sidecar_of_a_mask_tells_what_the_scan_was_and_how_it_was_read(made: Path):
    case = report(made, "infer")["cases"][0]
    tree = json.loads((made / "OUT" / f"{case['id']}.json").read_text())
    assert tree["scan"] == {"modality": "CT", "slices": 10, "repair": "", "source_files": 10}
    repairs = {"allow_tilt": False, "allow_resample_z": False, "slice_thickness_mm": None}
    assert repairs.items() <= tree["settings"].items()


def test_a_series_is_asked_for_by_the_id_of_its_mask(made: Path, cohort: Path, tmp_path: Path):
    case = report(made, "infer")["cases"][0]["id"]
    result = infer(cohort, "-m", made / "RUN", "-o", tmp_path, "--series", case)
    assert [one["id"] for one in document(result)["cases"]] == [case]


def test_a_missing_object_is_written_when_it_is_asked_for_later(made: Path, cohort: Path, tmp_path: Path):
    arguments = (some(cohort), "-m", made / "RUN", "-o", tmp_path)
    infer(*arguments)
    result = infer(*arguments, "--format", "nifti,rtstruct")
    assert (
        document(result)["cases"][0]["status"] == "done" and len(list(tmp_path.glob("*.rtstruct.dcm"))) == 1
    )


def test_only_what_is_asked_for_is_written(made: Path, cohort: Path, tmp_path: Path):
    infer(some(cohort), "-m", made / "RUN", "-o", tmp_path, "--format", "dicom-seg")
    assert sorted(path.name.partition(".")[2] for path in tmp_path.iterdir()) == ["json", "json", "seg.dcm"]


def test_objects_of_a_nifti_are_a_warning_beside_its_mask(made: Path, tiny_cohort: Path, tmp_path: Path):
    image = next((tiny_cohort / "imagesTr").iterdir())
    result = infer(image, "-m", made / "RUN", "-o", tmp_path, "--format", "nifti,dicom-seg")
    (case,) = document(result)["cases"]
    assert case["warnings"][0]["code"] == "FORMAT_NEEDS_DICOM"
    assert result.exit_code == 0 and not list(tmp_path.glob("*.dcm"))


def test_nothing_but_objects_of_a_nifti_is_refused(made: Path, tiny_cohort: Path, tmp_path: Path):
    image = next((tiny_cohort / "imagesTr").iterdir())
    result = infer(image, "-m", made / "RUN", "-o", tmp_path, "--format", "rtstruct")
    assert result.exit_code == 3 and document(result)["cases"][0]["code"] == "FORMAT_NEEDS_DICOM"


def test_a_format_that_cannot_be_takes_no_good_mask_away(made: Path, tiny_cohort: Path, tmp_path: Path):
    image = next((tiny_cohort / "imagesTr").iterdir())
    infer(image, "-m", made / "RUN", "-o", tmp_path)
    infer(image, "-m", made / "RUN", "-o", tmp_path, "--format", "rtstruct")
    assert (tmp_path / image.name).exists()


def test_a_scan_that_is_refused_now_leaves_no_old_object(made: Path, tmp_path: Path):
    write_scan(tmp_path / "in", make_case(0)[0])
    arguments = (tmp_path / "in", "-m", made / "RUN", "-o", tmp_path / "OUT", "--format", ALL)
    assert infer(*arguments).exit_code == 0
    sorted((tmp_path / "in").iterdir())[4].unlink()
    assert infer(*arguments).exit_code == 3
    assert [path.name for path in (tmp_path / "OUT").iterdir()] == ["report.json"]


def test_what_only_the_pixels_tell_is_a_warning_of_the_mask(made: Path, tmp_path: Path):
    def soil(dataset: Dataset, k: int) -> None:
        words = np.frombuffer(dataset.PixelData, np.uint16) & 0x0FFF
        dataset.BitsStored, dataset.HighBit, dataset.PixelData = 12, 11, (words ^ 0x4000).tobytes()

    write_scan(tmp_path / "in", make_case(0)[0], edit=soil)
    result = infer(tmp_path / "in", "-m", made / "RUN", "-o", tmp_path / "OUT")
    (case,) = document(result)["cases"]
    assert "DICOM_HIGH_BITS" in [warning["code"] for warning in case["warnings"]]


def test_an_unknown_format_is_named_before_anything_is_read(made: Path, cohort: Path, tmp_path: Path):
    result = infer(cohort, "-m", made / "RUN", "-o", tmp_path / "OUT", "--format", "nifti,seg")
    assert result.exit_code == 2 and "UNKNOWN_NAME" in result.stderr and not (tmp_path / "OUT").exists()


def test_an_ambiguous_study_is_refused_with_its_choices_and_the_others_are_done(made: Path, tmp_path: Path):
    root = write_dicom_cohort(tmp_path / "in", 2)
    write_scan(root / "patient 1/more", make_case(7)[0], study=2, series=3, patient="P-1")
    result = infer(root, "-m", made / "RUN", "-o", tmp_path / "OUT")
    cases = {case["status"]: case for case in document(result)["cases"]}
    assert result.exit_code == 3 and set(cases) == {"done", "rejected"}
    assert cases["rejected"]["code"] == "SERIES_AMBIGUOUS"
    assert "20 x 18 x 10 voxels of 1.5 x 1.5 x 3 mm" in cases["rejected"]["message"]


def test_a_series_that_is_asked_for_goes_before_the_rule(made: Path, cohort: Path, tmp_path: Path):
    patient = some(cohort).parent.parent
    result = infer(patient, "-m", made / "RUN", "-o", tmp_path, "--series", 3)
    (case,) = document(result)["cases"]
    assert case["status"] == "done"
    assert case["id"] not in {case["id"] for case in report(made, "infer")["cases"]}  # the MR


def test_a_series_that_does_not_exist_is_a_usage_error(made: Path, cohort: Path, tmp_path: Path):
    result = infer(some(cohort), "-m", made / "RUN", "-o", tmp_path / "OUT", "--series", 7)
    assert result.exit_code == 2 and "SERIES_UNKNOWN" in result.stderr


def test_a_dry_run_makes_no_key(made: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    result = infer(cohort, "-m", made / "RUN", "-o", tmp_path / "OUT", "--dry-run")
    assert document(result)["dry_run"]["cases"] == 6 and list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_which_cases_would_be_refused(made: Path, tmp_path: Path):
    write_scan(tmp_path / "in/mr", make_case(0)[0], kind="MR")
    result = infer(tmp_path / "in", "-m", made / "RUN", "-o", tmp_path / "OUT", "--dry-run")
    assert result.exit_code == 3 and document(result)["cases"][0]["code"] == "CHANNEL_MISSING"


def test_a_dry_run_of_a_cohort_makes_no_key(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    words = (
        "run",
        "phantom_ct",
        "--data",
        cohort,
        "-o",
        tmp_path / "RUN",
        *RULE,
        *ROIS,
        "--dry-run",
        "--json",
    )
    assert document(medseg(*words))["dry_run"]["layout"] == "dicom" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["", "masks"])
def test_outputs_among_dicom_files_are_refused(made: Path, cohort: Path, place: str):
    before = sorted(cohort.rglob("*"))
    result = infer(some(cohort), "-m", made / "RUN", "-o", some(cohort) / place)
    assert result.exit_code == 2 and "OUT_HOLDS_INPUT" in result.stderr
    assert sorted(cohort.rglob("*")) == before


def test_a_run_among_its_dicom_files_is_refused(tmp_path: Path, home: Path):
    root = write_dicom_cohort(tmp_path / "data", 1)
    result = medseg("check", "phantom_ct", "--data", root, "-o", root / "RUN")
    assert result.exit_code == 2 and "OUT_HOLDS_INPUT" in result.stderr


def test_a_real_series_is_segmented_on_its_grid_as_nifti_seg_and_rtstruct(
    made: Path, medseg_data: Path, tmp_path: Path
):
    source = medseg_data / "mr_dicom/Study1/13_HCropVolume"  # it lacks PatientBirthDate
    result = infer(source, "-m", made / "RUN", "-o", tmp_path, "--series", 1, "--format", ALL)
    assert result.exit_code == 0, result.stderr
    scan, names = scan_of(source), document(result)["cases"][0]["outputs"]
    mask = read_labels(tmp_path / names[0])
    assert mask.array.shape == (35, 51, 32) and mask.geometry.differs_from(scan.geometry) == ""
    for read, name in ((read_seg, names[1]), (read_rtstruct, names[2])):
        assert np.array_equal(read(tmp_path / name, scan, {}, labels=NAMES).array, mask.array)
    assert dcmread(tmp_path / names[1]).PatientBirthDate == ""


def test_of_a_repaired_scan_the_mask_lies_on_the_repaired_grid_and_the_objects_on_its_slices(
    made: Path, tmp_path: Path
):
    tilted = replace(AXIAL, step_mm=(0.0, 0.6, 3.0))
    write_series(tmp_path / "in", tilted)
    arguments = (tmp_path / "in", "-m", made / "RUN", "-o", tmp_path / "OUT", "--format", ALL)
    assert document(infer(*arguments))["cases"][0]["code"] == "DICOM_TILT"
    (case,) = document(infer(*arguments, "--allow-tilt"))["cases"]
    assert "DICOM_TILT_REPAIRED" in [warning["code"] for warning in case["warnings"]]
    rows = round(tilted.rows + 4 * 0.6 / tilted.pixel_mm[0])
    assert read_geometry(tmp_path / "OUT" / case["outputs"][0]).shape == (tilted.columns, rows, 5)
    seg = dcmread(tmp_path / "OUT" / case["outputs"][1])
    places = {
        tuple(map(float, frame.PlanePositionSequence[0].ImagePositionPatient))
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    assert seg.Rows == tilted.rows and len(places) == 5
    assert places == {tuple(round(float(x), 6) for x in tilted.position(k)) for k in range(5)}


# ---- identifiers -------------------------------------------------------------------------------------------


def test_identifiers_stand_in_more_than_40_tags(planted: Planted, cohort: Path):
    data = next(iter(some(cohort).iterdir())).read_bytes()
    assert sum(is_in(text, data) for text in planted.texts) > 40


def test_no_identifier_is_in_any_name_or_file_that_was_written(made: Path, home: Path, planted: Planted):
    files = [path for folder in (made, home) for path in sorted(folder.rglob("*")) if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".gz", ".json", ".csv", ".b2nd", ".pt", ".safetensors", ".db", ".png", ".yaml", ".md"} <= kinds
    # A mask as a DICOM object is the patient's own; a terminal shows no more than the path that was typed.
    own = [path for path in files if not path.name.endswith((".seg.dcm", ".rtstruct.dcm"))]
    found = [(path.name, text) for path in own for text in texts_in(path, planted.texts)]
    assert found == []


def texts_in(path: Path, texts: Sequence[str]) -> list[str]:
    """Return the texts in a file's name or content, a compressed one's too."""
    data = str(path).encode() + path.read_bytes()
    data += gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else b""
    return [text for text in texts if is_in(text, data)]


def test_the_objects_are_the_patients_own(made: Path):
    for path in (made / "OUT").glob("*.dcm"):
        assert str(dcmread(path).PatientID).startswith(PATIENT_ID)
