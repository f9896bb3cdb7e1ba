import numpy as np
import pytest
from hypothesis import given

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume, from_canonical, to_canonical
from tests.builders import STORAGES, geometries, positions, restore

GRID = Geometry.of_spacing((4, 3, 2), (0.5, 1.5, 4), (10, 20, 30))


@given(geometries())
def test_to_canonical_keeps_every_voxels_world_position(grid):
    # The array holds its own positions, so they can be compared with those of the new grid.
    moved, canonical = to_canonical(positions(grid), grid)
    assert np.allclose(moved, positions(canonical), atol=1e-8)


@given(geometries())
def test_from_canonical_undoes_to_canonical(grid):
    array = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    assert np.array_equal(from_canonical(to_canonical(array, grid)[0], grid), array)


@given(geometries())
def test_canonical_axes_run_to_the_right_the_front_and_the_head(grid):
    _, canonical = to_canonical(np.zeros(grid.shape), grid)
    assert canonical.orientation == "RAS"


@pytest.mark.parametrize("storage", STORAGES)
def test_every_storage_order_becomes_the_same_canonical_array(storage):
    array = np.arange(24).reshape(4, 3, 2)
    moved, canonical = to_canonical(*restore(array, GRID, storage))
    assert np.array_equal(moved, array)
    assert canonical.differs_from(GRID, 1e-9) == ""


def test_leading_axes_stay_in_front():
    array = np.arange(48).reshape(2, 4, 3, 2)
    stored, grid = restore(array, GRID, ((2, 0, 1), (True, False, True)))
    moved, _ = to_canonical(stored, grid)
    assert np.array_equal(moved, array)
    assert np.array_equal(from_canonical(moved, grid), stored)


def test_a_picture_one_voxel_deep_has_an_order_too():
    array = np.arange(12).reshape(4, 3, 1)
    stored, grid = restore(array, Geometry.of_spacing((4, 3, 1), (1, 1, 1)), ((1, 0, 2), (False, True, True)))
    assert np.array_equal(to_canonical(stored, grid)[0], array)


def test_an_image_lies_on_its_grid():
    with pytest.raises(GeometryError, match="does not lie on grid"):
        Volume(np.zeros((4, 3, 2)), GRID)


def test_labels_lie_on_their_grid():
    with pytest.raises(GeometryError, match="does not lie on grid"):
        Labels(np.zeros((2, 3, 4), int), GRID)


def test_labels_are_whole_numbers():
    with pytest.raises(GeometryError, match="not float32"):
        Labels(np.zeros(GRID.shape, np.float32), GRID)
