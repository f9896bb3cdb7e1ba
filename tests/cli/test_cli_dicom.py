"""inspect, convert and to-dicom as a user starts them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.io import write_labels, write_volume
from tests.dicom_edits import drop, put
from tests.dicom_files import Grid, write_series
from tests.dicom_objects import RTStructureSetStorage, write_bare, write_localizer
from tests.tiny import document, medseg

HEAVY = ("torch", "monai", "mlflow", "SimpleITK", "scipy.ndimage", "matplotlib", "pandas", "highdicom")
PROBE = """
import sys
from medseg.cli import main
sys.argv = ["medseg", *sys.argv[1:]]
try:
    main()
finally:
    print("LOADED", sorted(set(sys.modules) & {names}), file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def loaded(names: tuple[str, ...], *arguments: object) -> str:
    """Return which of some modules a command loads in a process of its own."""
    command = [sys.executable, "-c", PROBE.replace("{names}", repr(set(names))), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize("verb", ["inspect", "convert"])
def test_scans_are_read_without_anything_heavy(verb: str, tmp_path: Path):
    write_series(tmp_path / "scan")
    out = ["-o", tmp_path / "OUT"] if verb == "convert" else []
    assert loaded(HEAVY, verb, tmp_path / "scan", *out) == "LOADED []"


@pytest.mark.parametrize("verb", ["", "inspect", "convert", "to-dicom"])
def test_help_does_not_load_the_dicom_library(verb: str):
    assert loaded((*HEAVY, "pydicom"), *filter(None, [verb]), "--help") == "LOADED []"


@pytest.mark.parametrize("verb", ["inspect", "convert", "to-dicom"])
def test_every_verb_explains_itself_with_an_example(verb: str):
    result = medseg(verb, "--help")
    assert result.exit_code == 0 and f"medseg {verb}" in result.stdout


def test_inspect_prints_an_aligned_row_a_series(tmp_path: Path):
    write_series(tmp_path / "in" / "a", series=1)
    write_series(tmp_path / "in" / "b", Grid(at=(0, 1, 3, 4)), series=2, kind="MR")
    result = medseg("inspect", tmp_path / "in")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["no", "modality", "slices", "shape", "spacing", "mm", "verdict", "code", "id"]
    assert lines[1].split()[:7] == ["1", "CT", "5", "7x6x5", "0.75x1.25x3", "accept", "-"]
    assert lines[2].split()[:7] == ["2", "MR", "4", "-", "-", "reject", "DICOM_GAP"]
    assert "6 mm" in lines[3] and "hint:" in lines[3]
    assert lines[1].index("accept") == lines[2].index("reject") == lines[0].index("verdict")
    assert lines[-1] == "0 other files, 0 damaged" and result.exit_code == 3


def test_inspect_names_warnings_volumes_and_damaged_files(tmp_path: Path):
    for n in range(2):
        edit = put(EchoTime=20 + n, PhotometricInterpretation="MONOCHROME1")
        write_series(tmp_path / "in" / "a", first=10 * n, edit=edit)
    (tmp_path / "in" / "b").mkdir()
    (tmp_path / "in" / "b" / "x.dcm").write_bytes(bytes(128) + b"DICM")
    result = medseg("inspect", tmp_path / "in")
    assert "volume 2: 5 slices, 7x6x5, 0.75x1.25x3 mm, echo time 21" in result.stdout
    assert "DICOM_MONOCHROME1: low values are bright" in result.stdout
    assert "0 other files, 1 damaged\n      b/x.dcm: DICOM_DAMAGED\n" in result.stdout


def test_of_many_damaged_files_only_the_first_are_named(tmp_path: Path):
    for n in range(22):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{n:02d}.dcm").write_bytes(bytes(128) + b"DICM")
    lines = medseg("inspect", tmp_path / "in").stdout.splitlines()
    assert lines[0] == "0 other files, 22 damaged" and lines[-1] == "      and 2 more" and len(lines) == 22


def test_inspect_tells_studies_and_files_apart(tmp_path: Path):
    write_series(tmp_path / "in" / "a", study=1, patient="P-1")
    write_series(tmp_path / "in" / "b", study=2, patient="P-2")
    write_volume(tmp_path / "in" / "c.nii.gz", Volume(np.zeros((2, 2, 2, 2), np.int16), grid_of(2)))
    lines = medseg("inspect", tmp_path / "in").stdout.splitlines()
    assert [line for line in lines if line.startswith(("study", "files"))] == ["study 1", "study 2", "files"]
    assert any(line.endswith(" c.nii.gz") for line in lines) and "      2 channels" in lines
    assert lines[-2].startswith("INPUT_MIXED: ")


def grid_of(size: int) -> Geometry:
    return Geometry.of_spacing((size,) * 3, (1, 1, 2))


def write_rois(folder: Path, name: str) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as Items

    roi = Dataset()
    roi.ROINumber, roi.ROIName = 1, name
    more = {"StructureSetROISequence": Items([roi]), "ROIContourSequence": Items([])}
    write_bare("rt.dcm", RTStructureSetStorage, "RTSTRUCT", 55, **more)(folder)


def test_names_of_structures_are_shown_and_never_stored(tmp_path: Path):
    write_series(tmp_path / "in")
    write_rois(tmp_path / "in", "GTV")
    assert "1 structure: GTV" in medseg("inspect", tmp_path / "in").stdout
    assert "GTV" not in medseg("inspect", tmp_path / "in", "--json").stdout


def test_a_name_cannot_steer_the_terminal(tmp_path: Path):
    write_series(tmp_path / "in")
    write_rois(tmp_path / "in", "GTV")
    content = (tmp_path / "in" / "rt.dcm").read_bytes()
    (tmp_path / "in" / "rt.dcm").write_bytes(content.replace(b"GTV ", b"G\x1bV "))
    result = medseg("inspect", tmp_path / "in")
    assert "\x1b" not in result.stdout and "G?V" in result.stdout


def test_inspect_as_json_is_one_document(tmp_path: Path):
    write_series(tmp_path / "in")
    write_localizer(30)(tmp_path / "in")
    result = medseg("inspect", tmp_path / "in", "--json")
    tree = document(result)
    assert tree["command"] == "inspect" and tree["exit_code"] == result.exit_code == 0
    assert sorted(row["verdict"] for row in tree["series"]) == ["accept", "reject"]
    assert tree["others"] == tree["damaged"] == 0


def test_convert_prints_the_report_it_stores(tmp_path: Path):
    write_series(tmp_path / "in" / "good", study=1, patient="P-1")
    write_series(tmp_path / "in" / "bad", study=2, patient="P-2", edit=drop("ImagePositionPatient"))
    result = medseg("convert", tmp_path / "in", "-o", tmp_path / "OUT", "--json")
    assert document(result) == json.loads((tmp_path / "OUT" / "report.json").read_text())
    assert result.exit_code == 3 and document(result)["summary"]["done"] == 1
    bad = next(case for case in document(result)["cases"] if case["status"] == "rejected")
    assert f"DICOM_POSITION {bad['id']}: " in result.stderr and "\n  hint: " in result.stderr


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(tmp_path: Path):
    write_series(tmp_path / "scan")
    result = medseg("convert", tmp_path / "scan", "-o", tmp_path / "OUT", "--dry-run", "--json")
    assert result.exit_code == 0
    (image, sidecar) = document(result)["dry_run"]["outputs"]
    assert image.endswith(".nii.gz") and sidecar.endswith(".json") and image in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan"]


@pytest.mark.parametrize("place", ["", "below"])
def test_a_dry_run_refuses_an_output_folder_that_the_run_refuses(place: str, tmp_path: Path):
    write_series(tmp_path / "scan")
    arguments = ("convert", tmp_path / "scan", "-o", tmp_path / "scan" / place)
    for more in ([], ["--dry-run"]):
        result = medseg(*arguments, *more)
        assert result.exit_code == 2 and "OUT_HOLDS_INPUT" in result.stderr


def test_a_dry_run_refuses_options_that_no_input_knows(tmp_path: Path):
    write_volume(tmp_path / "a.nii.gz", Volume(np.zeros((1, 2, 2, 2), np.int16), grid_of(2)))
    result = medseg("convert", tmp_path / "a.nii.gz", "-o", tmp_path / "OUT", "--suv", "--dry-run")
    assert result.exit_code == 2 and "OPTION_NEEDS_DICOM" in result.stderr and "\n  hint: " in result.stderr


def test_a_dry_run_names_what_it_would_refuse(tmp_path: Path):
    write_series(tmp_path / "scan", Grid(at=(0, 1, 3, 4)))
    result = medseg("convert", tmp_path / "scan", "-o", tmp_path / "OUT", "--dry-run")
    assert result.exit_code == 3 and "DICOM_GAP" in result.stderr and not (tmp_path / "OUT").exists()


def test_a_dry_run_gives_the_ids_of_the_real_one_where_the_site_has_a_key(tmp_path: Path):
    write_series(tmp_path / "scan")
    medseg("convert", tmp_path / "scan", "-o", tmp_path / "OUT")
    again = medseg("convert", tmp_path / "scan", "-o", tmp_path / "B", "--dry-run", "--json")
    assert (tmp_path / "OUT" / document(again)["dry_run"]["outputs"][0]).exists()


@pytest.mark.parametrize("thickness", ["0", "-1", "nan", "inf", "thick"])
def test_an_impossible_thickness_is_a_usage_error(thickness: str, tmp_path: Path):
    write_series(tmp_path / "scan")
    options = ["-o", tmp_path / "OUT", f"--slice-thickness={thickness}"]
    assert medseg("convert", tmp_path / "scan", *options).exit_code == 2


def test_one_slice_is_read_with_a_thickness(tmp_path: Path):
    write_series(tmp_path / "scan", Grid(at=(0.0,)), edit=drop("SliceThickness"))
    assert "DICOM_THICKNESS" in medseg("convert", tmp_path / "scan", "-o", tmp_path / "OUT").stderr
    result = medseg("convert", tmp_path / "scan", "-o", tmp_path / "OUT", "--slice-thickness", "2.5")
    assert result.exit_code == 0, result.stderr


def test_to_dicom_writes_objects_named_by_the_option(tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path)
    options = ["--source", tmp_path / "scan", "-o", tmp_path / "OUT", "--labels", "1=liver"]
    result = medseg(
        "to-dicom", tmp_path / "m.nii.gz", *options, "--format", "dicom-seg,rtstruct", "--json", "-q"
    )
    assert result.exit_code == 0, result.stderr
    assert document(result)["cases"][0]["outputs"] == ["m.seg.dcm", "m.rtstruct.dcm", "m.dicom.json"]
    assert all(b"liver" in path.read_bytes() for path in (tmp_path / "OUT").glob("*.dcm"))


def write_mask(folder: Path) -> None:
    array = np.zeros((7, 6, 5), np.uint8)
    array[2:4, 2:4, 2] = 1
    write_labels(folder / "m.nii.gz", Labels(array, Geometry((7, 6, 5), Grid().affine_ras)))


@pytest.mark.parametrize(
    "options",
    [["--format", "seg"], ["--seg-type", "x"], ["--seg-type", "binary,labelmap"], ["--labels", "liver"]],
)
def test_impossible_options_of_to_dicom_are_usage_errors(options: list[str], tmp_path: Path):
    write_series(tmp_path / "scan")
    write_mask(tmp_path)
    usual = [tmp_path / "m.nii.gz", "--source", tmp_path / "scan", "-o", tmp_path / "OUT"]
    result = medseg("to-dicom", *usual, *options)
    assert result.exit_code == 2 and f": {options[0]} " in result.stderr


@pytest.mark.parametrize(
    ("verb", "names"), [("to-dicom", ["OUT/ID.nii.gz", "ID.json"]), ("infer", ["ID_prob.nii.gz"])]
)
def test_help_names_outputs_in_full(verb: str, names: list[str]):
    text = medseg(verb, "--help").stdout
    assert all(name in text for name in names)
