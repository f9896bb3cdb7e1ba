import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from tests.builders import STORAGES, geometries, make_rotation, positions, restore

GRID = Geometry.of_spacing((4, 3, 2), (0.5, 1.5, 4), (10, 20, 30))


def of_columns(*columns, shape=(2, 2, 2)):
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T
    return Geometry(shape, affine)


def test_first_voxel_lies_at_the_origin_and_the_last_one_steps_away():
    assert GRID.to_world([(0, 0, 0), (3, 2, 1)]).tolist() == [[10, 20, 30], [11.5, 23, 34]]


def test_spacing_is_the_length_of_each_column_also_when_rotated():
    affine = np.eye(4)
    affine[:3, :3] = make_rotation((20, -35, 70)) * (0.5, 1.5, 4)
    assert Geometry((2, 2, 2), affine).spacing_mm == (0.5, 1.5, 4)


def test_spacing_ignores_the_last_bit_of_a_float32_header():
    affine = np.eye(4)
    affine[:3, :3] = make_rotation((20, -35, 70)) * (0.7, 1.3, 4.1)
    assert Geometry((2, 2, 2), affine.astype(np.float32)).spacing_mm == (0.7, 1.3, 4.1)


def test_spacing_of_a_microscope_keeps_its_digits():
    assert Geometry.of_spacing((2, 2, 2), (2.274e-4, 4e-6, 1)).spacing_mm == (2.274e-4, 4e-6, 1)


def test_voxel_volume_is_the_product_of_the_spacing():
    assert GRID.voxel_volume_mm3 == pytest.approx(3)


def test_direction_columns_are_unit_vectors():
    assert np.allclose(
        of_columns((0, 2, 0), (-3, 0, 0), (0, 0, 5)).direction, [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    )


def test_orientation_letters_name_the_side_an_axis_points_to():
    assert of_columns((-1, 0, 0), (0, 0, 2), (0, -3, 0)).orientation == "LSP"


def test_two_oblique_axes_never_share_a_world_axis():
    # Both of the first two lie closest to x; the closer one gets it.
    grid = of_columns((1, 0.1, 0.9), (1, 0.2, -0.5), (0, 1, 0))
    assert grid.axes == ((2, 1), (0, 1), (1, 1))


@given(geometries())
def test_axes_are_always_a_permutation(grid):
    assert sorted(world for world, _ in grid.axes) == [0, 1, 2]


def test_all_48_storage_orders_have_48_names():
    names = {restore(np.zeros(GRID.shape), GRID, storage)[1].orientation for storage in STORAGES}
    assert len(names) == 48


@given(geometries(), st.data())
def test_crop_keeps_every_voxel_where_it_is(grid, data):
    start = [data.draw(st.integers(0, n - 1)) for n in grid.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    assert np.allclose(positions(grid.crop(start, stop)), positions(grid)[(slice(None), *box)], atol=1e-9)


def test_an_empty_crop_is_refused():
    with pytest.raises(GeometryError, match="at least one voxel"):
        GRID.crop((1, 1, 1), (1, 2, 2))


@given(geometries(), st.tuples(*[st.integers(1, 9)] * 3))
def test_resample_keeps_the_outer_corners_of_the_field_of_view(grid, shape):
    new = grid.resample(shape)
    for corner in np.ndindex(2, 2, 2):
        old_edge = [n - 0.5 if far else -0.5 for far, n in zip(corner, grid.shape, strict=True)]
        new_edge = [n - 0.5 if far else -0.5 for far, n in zip(corner, shape, strict=True)]
        assert np.allclose(new.to_world(new_edge), grid.to_world(old_edge), atol=1e-9)


def test_resample_to_half_the_voxels_doubles_the_spacing():
    new = Geometry.of_spacing((4, 6, 2), (1, 2, 3)).resample((2, 3, 2))
    assert new.spacing_mm == (2, 4, 3)
    assert new.affine[:3, 3].tolist() == [0.5, 1, 0]  # halfway between the two voxels it replaces


def test_equal_grids_do_not_differ():
    assert GRID.differs_from(Geometry(GRID.shape, GRID.affine)) == ""


def test_a_difference_names_both_shapes():
    assert GRID.differs_from(GRID.crop((0, 0, 0), (4, 3, 1))) == "shape (4, 3, 2) against (4, 3, 1)"


@pytest.mark.parametrize(("shift_mm", "differs"), [(0.09, False), (0.11, True)])
def test_corners_may_lie_a_tenth_of_a_millimetre_apart(shift_mm, differs):
    moved = Geometry.of_spacing((4, 3, 2), (0.5, 1.5, 4), (10, 20 + shift_mm, 30))
    assert bool(GRID.differs_from(moved)) is differs


def test_a_wrong_spacing_shows_at_the_far_corner():
    # 0.05 mm a voxel is below the tolerance at the second voxel, not at the fourth.
    assert GRID.differs_from(Geometry.of_spacing((4, 3, 2), (0.55, 1.5, 4), (10, 20, 30)))


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 0), (2, 2, 2, 2)])
def test_a_grid_has_three_axes_of_at_least_one_voxel(shape):
    with pytest.raises(GeometryError):
        Geometry(shape, np.eye(4))


@pytest.mark.parametrize("affine", [np.eye(3), np.diag([1.0, 1, 1, 2])])
def test_an_affine_is_a_four_by_four_matrix(affine):
    with pytest.raises(GeometryError, match="last row"):
        Geometry((2, 2, 2), affine)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_affine_is_finite(value):
    affine = np.eye(4)
    affine[0, 3] = value
    with pytest.raises(GeometryError) as caught:
        Geometry((2, 2, 2), affine)
    assert caught.value.code == "AFFINE_NOT_FINITE"


@pytest.mark.parametrize("column", [(0, 0, 0), (0, 2, 0)])
def test_an_affine_spans_space(column):
    with pytest.raises(GeometryError) as caught:
        of_columns((1, 0, 0), (0, 1, 0), column)
    assert caught.value.code == "AFFINE_SINGULAR"


def test_thin_voxels_are_not_singular():
    assert Geometry.of_spacing((1, 1, 1), (1e-4, 1e-4, 1e-4)).spacing_mm == (1e-4, 1e-4, 1e-4)


def test_a_geometry_cannot_be_changed_behind_its_back():
    affine = np.eye(4)
    grid = Geometry((1, 1, 1), affine)
    affine[0, 0] = 7
    assert grid.spacing_mm == (1, 1, 1)
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 7


def test_a_mirror_image_of_a_microscopic_grid_is_another_grid():
    grid = Geometry.of_spacing((64, 64, 1), (1e-4, 1e-4, 1e-4))
    mirrored = grid.affine.copy()
    mirrored[0, 0] *= -1
    mirrored[0, 3] = 63e-4
    assert "apart" in grid.differs_from(Geometry(grid.shape, mirrored))


def test_a_picture_has_no_place_in_a_patient():
    assert Geometry((4, 3, 1), np.eye(4)).is_picture
    assert not Geometry((4, 3, 2), np.eye(4)).is_picture
    assert not Geometry.of_spacing((4, 3, 1), (0.5, 1, 1)).is_picture
