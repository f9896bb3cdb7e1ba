"""convert on real scans: each equals its published NIfTI, or is refused with the code that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.core.files import sha256_of_file
from tests.tiny import document, medseg

COMPRESSED = tuple(f"generic/compressed{name}/001" for name in ("", "_j2k", "_jpeg", "_jpegls", "_rle"))
TWO_SLICES = "failing/slicecount/001"
SCALAR = (
    *("anatomical/001", "anatomical/001_implicit", "ge/anatomical/001", "ge/anatomical/001_implicit"),
    *("generic/anatomical/001", "generic/anatomical/001_implicit", "generic/anatomical/002_non_isotropic"),
    *("hyperfine/anatomical/001", TWO_SLICES, *COMPRESSED),
)
ONE_SLICE = "ge/anatomical/001_single_slice"
SERIES_OF_VOLUMES = ("ge/dti/001", "ge/dti/001_implicit", "ge/dti/002", "ge/fmri/001", "ge/fmri/001_implicit")
REFUSED = {
    ONE_SLICE: "DICOM_THICKNESS",
    "generic/rgb/001": "DICOM_COLOUR",
    "failing/gantrytilting/001": "DICOM_TILT",
    **dict.fromkeys(SERIES_OF_VOLUMES, "SERIES_AMBIGUOUS"),
}
MAX_APART_MM = 1e-3
FLOAT32 = {"generic/anatomical/002_non_isotropic": 1e-5, "PET": 1e-5}
"""Where voxels are rescaled by fractions: they are float32, the published ones float64. Others are equal."""

Canonical = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `medseg convert` on a folder, as a user does; return exit code and cases."""
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))

    def work(folder: Path, *options: object, out: str = "OUT") -> tuple[int, list[dict[str, Any]]]:
        result = medseg("convert", folder, "-o", tmp_path / out, "--json", *options)
        return result.exit_code, document(result)["cases"]

    return work


def only_output(told: tuple[int, list[dict[str, Any]]], out: Path) -> Path:
    """Return the one image that a run made."""
    exit_code, (case,) = told
    assert (exit_code, case["status"], case["warnings"]) == (0, "done", [])
    assert case["outputs"] == [f"{case['id']}.nii.gz", f"{case['id']}.json"]
    return out / case["outputs"][0]


def canonical(path: Path) -> Canonical:
    """Return voxels and affine of an image once its axes run to R, A, S."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.asanyarray(image.dataobj), image.affine


def truth_of(folder: Path) -> Canonical:
    return canonical(folder.with_name(f"{folder.name}_ground_truth.nii.gz"))


def assert_equal(ours: Canonical, truth: Canonical, rounding: float = 0.0) -> None:
    assert ours[0].shape == truth[0].shape
    assert np.abs(ours[1] - truth[1]).max() <= MAX_APART_MM
    assert np.abs(ours[0].astype(np.float64) - truth[0]).max() <= rounding


def test_every_real_series_is_in_one_of_these_tests(medseg_data: Path):
    root = medseg_data / "dicom2nifti"
    beside = {".gz", ".bval", ".bvec"}
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix not in beside]
    assert {str(path.parent.relative_to(root)) for path in files} == {*SCALAR, *REFUSED}


@pytest.mark.parametrize("name", SCALAR)
def test_a_real_series_equals_its_published_nifti(name: str, convert, medseg_data: Path, tmp_path: Path):
    folder = medseg_data / "dicom2nifti" / name
    output = only_output(convert(folder), tmp_path / "OUT")
    assert_equal(canonical(output), truth_of(folder), FLOAT32.get(name, 0.0))


def test_compressed_copies_of_a_real_series_give_one_identical_file(
    convert, medseg_data: Path, tmp_path: Path
):
    folders = [medseg_data / "dicom2nifti" / name for name in COMPRESSED]
    made = [only_output(convert(folder, out=str(n)), tmp_path / str(n)) for n, folder in enumerate(folders)]
    assert len({sha256_of_file(path) for path in made}) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_a_doubtful_real_series_is_refused_and_leaves_nothing(
    name: str, convert, medseg_data: Path, tmp_path: Path
):
    exit_code, (case,) = convert(medseg_data / "dicom2nifti" / name)
    assert (exit_code, case["status"], case["code"]) == (3, "rejected", REFUSED[name])
    assert [path.name for path in (tmp_path / "OUT").iterdir()] == ["report.json"]


def test_a_real_single_slice_is_accepted_with_its_thickness(convert, medseg_data: Path, tmp_path: Path):
    folder = medseg_data / "dicom2nifti" / ONE_SLICE
    truth = truth_of(folder)
    thickness_mm = np.linalg.norm(truth[1][:3, :3], axis=0)[np.argmin(truth[0].shape)]
    output = only_output(convert(folder, "--slice-thickness", thickness_mm), tmp_path / "OUT")
    assert_equal(canonical(output), truth)


@pytest.mark.parametrize("name", SERIES_OF_VOLUMES)
def test_each_volume_of_a_real_series_equals_that_of_its_published_nifti(
    name: str, convert, medseg_data: Path, tmp_path: Path
):
    folder = medseg_data / "dicom2nifti" / name
    voxels, affine = truth_of(folder)
    for n in range(voxels.shape[3]):
        output = only_output(convert(folder, "--volume", n + 1), tmp_path / "OUT")
        assert_equal(canonical(output), (voxels[..., n], affine))


@pytest.mark.parametrize("name", SERIES_OF_VOLUMES)
def test_a_real_series_has_as_many_volumes_as_its_published_nifti(name: str, convert, medseg_data: Path):
    folder = medseg_data / "dicom2nifti" / name
    exit_code, cases = convert(folder, "--series", "all")
    assert exit_code == 0 and len(cases) == truth_of(folder)[0].shape[3]


@pytest.mark.parametrize("name", ["CT", "MR_T1", "PET"])
def test_a_real_patient_equals_the_published_nifti(name: str, convert, medseg_data: Path, tmp_path: Path):
    patient = medseg_data / "sts_dicom" / "STS_001"
    output = only_output(convert(patient / "dicom" / name / "image"), tmp_path / "OUT")
    truth = canonical(patient / "nifti" / f"{name}_image.nii.gz")
    assert_equal(canonical(output), truth, FLOAT32.get(name, 0.0))


@pytest.mark.parametrize("series", ["13_HCropVolume", "37916-T2reg-88910"])
def test_a_real_mr_series_is_done_without_a_warning(series: str, convert, medseg_data: Path, tmp_path: Path):
    folder = medseg_data / "mr_dicom" / "Study1" / series
    assert only_output(convert(folder), tmp_path / "OUT").is_file()
