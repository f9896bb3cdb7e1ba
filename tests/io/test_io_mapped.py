"""Volumes that are filled along any axis and never held."""

from pathlib import Path

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.io import mapped, stream_probabilities, write_probabilities, write_volume

SHAPE = (5, 4, 3)
CHANNELS = 2


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    geometry = Geometry.of_spacing(SHAPE, (0.75, 1.5, 3.0))
    write_volume(path, Volume(np.zeros((1, *SHAPE), np.int16), geometry))
    return path


@pytest.mark.parametrize("slowest", [0, 1, 2])
@pytest.mark.parametrize("piece_bytes", [1, 2 * 5 * 4 * 2, 1 << 24])
def test_filled_along_any_axis_the_file_is_the_same(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slowest: int, piece_bytes: int
):
    monkeypatch.setattr(mapped, "PIECE_BYTES", piece_bytes)
    steps = np.random.default_rng(0).integers(0, 65536, (CHANNELS, *SHAPE)).astype(np.uint16)
    write_probabilities(tmp_path / "whole.nii.gz", np.moveaxis(steps, 0, 3) / np.float32(65535), scan)
    with stream_probabilities(tmp_path / "made.nii.gz", CHANNELS, scan, slowest=slowest) as volume:
        for index in range(SHAPE[slowest]):
            plane = np.moveaxis(volume.array, 1 + slowest, 0)[index]
            plane[...] = np.moveaxis(steps, 1 + slowest, 0)[index]
            volume.release(plane[:, ::-1])
        assert np.array_equal(volume.array, steps)
    assert (tmp_path / "made.nii.gz").read_bytes() == (tmp_path / "whole.nii.gz").read_bytes()


def test_what_breaks_off_leaves_no_file(scan: Path, tmp_path: Path):
    with pytest.raises(KeyError), stream_probabilities(tmp_path / "a.nii.gz", 2, scan, slowest=0):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]
