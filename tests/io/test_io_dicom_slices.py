from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels
from medseg.io.dicom.labels.slices import Planes, from_source, reorder, to_source
from tests.builders import STORAGES, Storage, restore
from tests.dicom_labels import SOURCES, make_labels, make_scan, paint

TILTED = [name for name in SOURCES if name.startswith("tilted")]


@pytest.mark.parametrize("storage", STORAGES)
def test_every_storage_of_a_grid_is_brought_into_the_order_of_another(storage: Storage) -> None:
    affine = np.diag([0.75, 1.5, 3.0, 1.0])
    affine[:3, 3] = 10, -20, 30
    target = Geometry((3, 4, 5), affine)
    array = np.arange(60).reshape(target.shape)
    np.testing.assert_array_equal(reorder(*restore(array, target, storage), target), array)


@pytest.mark.parametrize("change", ["shift", "size", "turn", "shape"])
def test_another_grid_is_refused(change: str) -> None:
    target = Geometry.of_spacing((3, 4, 5), (0.75, 1.5, 3.0))
    affine, shape = target.affine.copy(), target.shape
    if change == "shift":
        affine[1, 3] += 0.2
    elif change == "size":
        affine[2, 2] *= 1.05
    elif change == "turn":
        affine[:2, :2] = affine[:2, :2] @ [[0.8, -0.6], [0.6, 0.8]]
    else:
        shape = (3, 4, 4)
    with pytest.raises(GeometryError) as caught:
        reorder(np.zeros(shape), Geometry(shape, affine), target)
    assert caught.value.code == "GRID_MISMATCH"


def test_labels_of_a_scan_read_as_it_is_are_not_touched(tmp_path: Path) -> None:
    scan = make_scan(tmp_path)
    labels = make_labels(scan)
    np.testing.assert_array_equal(to_source(labels, scan), labels.array)
    assert from_source(labels.array, scan).geometry is scan.geometry


@pytest.mark.parametrize("name", TILTED)
def test_a_voxel_of_a_tilted_scan_comes_to_the_pixel_nearest_to_it(tmp_path: Path, name: str) -> None:
    scan = make_scan(tmp_path, name)
    for index, frame in enumerate(scan.frames):
        labels = paint(scan, 1, (slice(4, 5), slice(5, 6), slice(index, index + 1)))
        ((column, row, found),) = np.argwhere(to_source(labels, scan))
        apart = frame.plane @ (column, row, 0, 1) - scan.geometry.affine @ (4, 5, index, 1)
        assert found == index
        assert np.abs(apart[:3]).max() <= 0.625 + 1e-6  # half of 1.25 mm


@pytest.mark.parametrize("name", [*TILTED, "uneven"])
def test_slices_of_a_repaired_scan_survive_the_way_to_its_grid_and_back(tmp_path: Path, name: str) -> None:
    scan = make_scan(tmp_path, name)
    slices = to_source(make_labels(scan), scan)
    drawn = np.random.default_rng(1).integers(0, 3, slices.shape).astype(np.uint8)
    np.testing.assert_array_equal(to_source(from_source(drawn, scan), scan), drawn)


def test_uneven_slices_give_their_labels_to_the_nearest_level(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, "uneven")  # at 0, 3, 6.6, 9.3 and 12.3 mm; levels every 3.075 mm
    for index in range(5):
        drawn = np.zeros((11, 9, 5), np.uint8)
        drawn[..., index] = 1
        assert from_source(drawn, scan).array.any(axis=(0, 1)).tolist() == [k == index for k in range(5)]


def test_outside_of_the_slices_lies_background(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, "tilted")
    whole = from_source(np.ones((11, 9, 5), np.uint8), scan)
    assert np.count_nonzero(whole.array) == 11 * 9 * 5 < whole.array.size


def test_labels_on_another_grid_do_not_come_to_the_slices(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, "tilted")
    drawn_on_slices = Labels(np.zeros((11, 9, 5), np.uint8), Geometry.of_spacing((11, 9, 5), (0.75, 1.25, 3)))
    with pytest.raises(GeometryError):
        to_source(drawn_on_slices, scan)


def test_planes_are_measured_along_the_normal(tmp_path: Path) -> None:
    planes = Planes(make_scan(tmp_path, "uneven"))
    np.testing.assert_allclose(planes.distances_mm, [0, 3, 6.6, 9.3, 12.3], atol=1e-6)
    assert planes.tolerance_mm == pytest.approx(0.27)
