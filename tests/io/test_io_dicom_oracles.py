"""dcm2niix and SimpleITK make the same volume of every good series, but where they are known to be wrong."""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medseg.core.geometry import Geometry
from medseg.core.volume import to_canonical
from medseg.io.dicom import Options, Scan, choose_scans, find_series, read_scan
from tests.dicom_cases import build, of_verdict
from tests.dicom_files import LPS_TO_RAS

Canonical = tuple[np.ndarray, np.ndarray]

REORDERS_NOT = "keeps frames in the order of the file, whatever their positions"
ORACLE_IS_WRONG = {
    "dcm2niix": {
        "content_and_trigger_times_differ": "takes each trigger time for a volume of its own",
        "description_and_number_differ": "takes each series number for a series of its own",
        "one_row": "writes nothing",
        "one_column": "writes nothing",
        "int8": "reads signed bytes as unsigned",
        "high_bit_at_the_top": "ignores HighBit",
        "deflated": "cannot inflate",
        "no_preamble": "does not see files without a preamble",
        "no_preamble_and_no_prefix": "does not see files without a preamble",
        "private_megabyte": "gives up on a long header",
        "enhanced_rle": REORDERS_NOT,
        "enhanced_in_two_files": "reads the first file of a concatenation alone",
    },
    "SimpleITK": {
        "names_of_no_encoding": "takes names in UTF-8 only",
        "link_to_the_folder_itself": "follows the link over and over",
        "link_to_a_folder_that_is_there": "reads linked files twice",
        "one_row": "takes the row for a slice",
        "one_slice": "takes 1 mm for the thickness of a single slice",
        "high_bit_at_the_top": "ignores HighBit",
        "no_preamble": "does not see files without a preamble",
        "no_preamble_and_no_prefix": "does not see files without a preamble",
        "enhanced_shuffled": REORDERS_NOT,
        "enhanced_ct": REORDERS_NOT,
        "enhanced_pet": REORDERS_NOT,
        "enhanced_nothing_shared": REORDERS_NOT,
        "enhanced_rescale_by_frame": REORDERS_NOT,
        "enhanced_sagittal": REORDERS_NOT,
        "enhanced_rle": REORDERS_NOT,
        "enhanced_jpeg_lossless": REORDERS_NOT,
        "enhanced_in_two_files": "takes each file of a concatenation for a slice",
        "parametric_map_float": "cannot read pixels of floating-point numbers",
        "parametric_map_double": "cannot read pixels of floating-point numbers",
        "enhanced_one_frame": "takes 1 mm for the thickness of a single slice",
    },
}
"""They are wrong on these, without a word or with an error; the ramp in the voxels says who is right."""
LOOSE_MM = {
    "jitter_of_a_thousandth": 0.002,
    "positions_of_two_digits": 0.005,
    "shear_of_a_half_thousandth": 0.005,
}
"""The positions are rounded this coarsely, and every reader takes another mean."""
NOT_ASKED = {"pipe_in_the_folder"}  # they would wait for the pipe for ever


def canonical(array: np.ndarray, affine: np.ndarray) -> Canonical:
    turned, geometry = to_canonical(array.astype(np.float64), Geometry(array.shape, affine))
    return turned, geometry.affine


@cache
def read_scans(folder: Path) -> list[tuple[Scan, Canonical]]:
    scans = choose_scans(find_series(folder, Options()))
    volumes = [(scan, read_scan(scan)) for scan in scans]
    return [(scan, canonical(volume.array[0], volume.geometry.affine)) for scan, volume in volumes]


def run_dcm2niix(folder: Path, out: Path) -> Iterator[Canonical]:
    """Yield what dcm2niix makes of a folder."""
    out.mkdir()
    tool = Path(sys.executable).parent / "dcm2niix"
    subprocess.run([tool, "-z", "n", "-b", "n", "-o", out, folder], capture_output=True, check=False)
    for path in sorted(out.glob("*.nii")):
        image = nib.load(path)
        if image.get_data_dtype().names is None and len(image.shape) <= 3:
            array = image.get_fdata()
            yield canonical(array.reshape((*array.shape, 1)[:3]), image.affine)


def run_simpleitk(folder: Path, scan: Scan) -> Iterator[Canonical]:
    """Yield what SimpleITK makes of the series of a scan, its files in the order that GDCM gives them."""
    reader = SimpleITK.ImageSeriesReader()
    pixels = scan.first.pixels
    assert pixels is not None
    names = reader.GetGDCMSeriesFileNames(str(folder), scan.first.series, False, True)
    try:
        if pixels.frames > 1 or len(names) < 2:
            image = SimpleITK.ReadImage(str(scan.files[0]))
        else:
            reader.SetFileNames(names)
            image = reader.Execute()
    except (RuntimeError, TypeError):
        return
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    yield canonical(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine)


def agree(ours: Canonical, theirs: Canonical, limit_mm: float) -> bool:
    if ours[0].shape != theirs[0].shape or np.abs(ours[1] - theirs[1]).max() > limit_mm:
        return False
    # Rescaled values differ in the last bit of float32.
    return bool(np.allclose(ours[0], theirs[0], rtol=1e-6, atol=1e-4))


@pytest.mark.parametrize("name", sorted(set(of_verdict("accept")) - NOT_ASKED))
@pytest.mark.parametrize("oracle", ORACLE_IS_WRONG)
def test_oracle_agrees_unless_it_is_wrong(oracle: str, name: str, tmp_path: Path) -> None:
    folder, _ = build(name)
    ours = read_scans(folder)
    assert ours
    if oracle == "dcm2niix":
        theirs = [list(run_dcm2niix(folder, tmp_path / "out"))] * len(ours)
    else:
        theirs = [list(run_simpleitk(folder, scan)) for scan, _ in ours]
    limit_mm = LOOSE_MM.get(name, 1e-3)
    agreed = [any(agree(volume, one, limit_mm) for one in found) for (_, volume), found in zip(ours, theirs)]
    assert all(agreed) is (name not in ORACLE_IS_WRONG[oracle])


@pytest.mark.parametrize("series", ["13_HCropVolume", "37916-T2reg-88910"])
def test_both_oracles_agree_on_real_series(series: str, medseg_data: Path, tmp_path: Path) -> None:
    folder = medseg_data / "mr_dicom" / "Study1" / series
    ((scan, volume),) = read_scans(folder)
    (by_dcm2niix,) = run_dcm2niix(folder, tmp_path / "out")
    (by_simpleitk,) = run_simpleitk(folder, scan)
    assert agree(volume, by_dcm2niix, 1e-3) and agree(volume, by_simpleitk, 1e-3)
