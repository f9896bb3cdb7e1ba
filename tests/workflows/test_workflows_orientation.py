"""How a scan happens to be stored changes nothing: one case in all 48 orientations gives one mask."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.tiny import make_case, medseg

ORIENTATIONS = [
    np.array([[axis, sign] for axis, sign in zip(axes, signs)])
    for axes in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One oblique scan in 48 storage orders."""
    folder = tmp_path_factory.mktemp("orientations")
    volume, _ = make_case(1)
    turn, cosine, sine = np.eye(4), np.cos(0.2), np.sin(0.2)
    turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
    image = nib.Nifti1Image(volume.array[0], turn @ volume.geometry.affine)
    for index, orientation in enumerate(ORIENTATIONS):
        stored = image.as_reoriented(orientation)
        stored.set_qform(stored.affine, code=1)
        stored.set_sform(stored.affine, code=2)
        stored.header.set_xyzt_units("mm", "sec")
        stored.to_filename(folder / f"scan_{index:02d}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def masks(scans: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masks")
    result = medseg("infer", scans, "-m", tiny_run, "-o", out, "--threads", "1")
    assert result.exit_code == 0, result.stderr
    return out


def test_all_48_masks_are_equal_in_one_orientation(masks: Path):
    paths = sorted(masks.glob("*.nii.gz"))
    assert len(paths) == 48
    arrays = [np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj) for path in paths]
    assert len(np.unique(arrays[0])) > 1, "an empty mask would prove nothing"
    assert all(np.array_equal(array, arrays[0]) for array in arrays)


def test_each_mask_has_the_grid_and_the_codes_of_its_scan(masks: Path, scans: Path):
    for path in sorted(scans.iterdir()):
        scan, mask = nib.load(path), nib.load(masks / path.name)
        assert mask.shape == scan.shape
        for matrix in ("get_sform", "get_qform"):
            assert np.array_equal(getattr(mask, matrix)(), getattr(scan, matrix)())
        for field in ("sform_code", "qform_code", "xyzt_units"):
            assert mask.header[field] == scan.header[field]


def test_every_sidecar_tells_the_same_volumes(masks: Path):
    import json

    labels = [json.loads(path.read_text())["labels"] for path in masks.glob("scan_*.json")]
    assert len(labels) == 48 and all(volumes == labels[0] for volumes in labels)
