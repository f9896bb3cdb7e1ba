"""Every NIfTI case ends as it must: the ramp at the right place, or a refusal with its code."""

import numpy as np
import pytest

from medseg.core.errors import DataError
from medseg.io import read_geometry, read_volume
from tests.nifti_cases import BAD, CASES, GOOD, SHAPE
from tests.ramp_checks import off_ramp


@pytest.mark.parametrize("name", [case.name for case in GOOD])
def test_every_voxel_lies_on_the_ramp(name, tmp_path):
    case = CASES[name]
    volume = read_volume(case.write(tmp_path / "a.nii.gz"))
    assert volume.array.shape == (case.channels, *SHAPE[:2], case.slices)
    assert np.abs(volume.geometry.affine - case.truth.place).max() < 1e-4
    for channel in volume.array:
        off = off_ramp(channel.astype(np.float64), volume.geometry.affine, case.truth.ramp)
        assert off.max() < max(case.truth.slack, abs(case.truth.slope) / 2 + 0.05)


@pytest.mark.parametrize("name", [case.name for case in GOOD])
def test_the_header_alone_gives_the_same_grid(name, tmp_path):
    path = CASES[name].write(tmp_path / "a.nii.gz")
    assert read_geometry(path).differs_from(read_volume(path).geometry, 0) == ""


@pytest.mark.parametrize("name", [case.name for case in BAD])
def test_bad_file_is_refused_with_its_code(name, tmp_path):
    with pytest.raises(DataError) as caught:
        read_volume(CASES[name].write(tmp_path / "a.nii.gz"))
    assert caught.value.code == CASES[name].code
