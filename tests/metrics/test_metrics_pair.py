"""Counts, surfaces and distances on phantoms that can be counted by hand."""

import numpy as np
import pytest

from medseg.core.errors import DataError, GeometryError
from medseg.metrics import Pair

SPACING_MM = (1.0, 2.0, 5.0)


def cuboid(shape, start, stop):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def test_counts_of_two_overlapping_cuboids():
    pair = Pair(cuboid((9, 8, 7), (1, 1, 1), (4, 4, 4)), cuboid((9, 8, 7), (2, 1, 1), (6, 4, 4)), SPACING_MM)
    assert (pair.tp, pair.fp, pair.fn) == (18, 18, 9)


def test_surface_of_a_cube_is_all_but_its_core():
    cube = cuboid((7, 7, 7), (1, 1, 1), (6, 6, 6))
    surface, _ = Pair(cube, cube, SPACING_MM).surfaces
    assert surface.sum() == 5**3 - 3**3


def test_image_border_counts_as_outside():
    full = np.ones((4, 5, 6), dtype=bool)
    surface, _ = Pair(full, full, SPACING_MM).surfaces
    assert surface.sum() == 4 * 5 * 6 - 2 * 3 * 4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_2d_image_has_an_outline(axis):
    square = np.expand_dims(np.pad(np.ones((4, 5), dtype=bool), 2), axis)
    surface, _ = Pair(square, square, SPACING_MM).surfaces
    assert surface.sum() == 4 * 5 - 2 * 3


def test_one_slice_in_a_3d_image_is_all_surface():
    plate = cuboid((8, 9, 7), (2, 2, 3), (6, 7, 4))
    surface, _ = Pair(plate, plate, SPACING_MM).surfaces
    assert surface.sum() == 4 * 5


def test_one_slice_at_the_end_of_a_3d_image_is_all_surface():
    plate = cuboid((8, 9, 7), (2, 2, 6), (6, 7, 7))
    surface, _ = Pair(plate, plate, SPACING_MM).surfaces
    assert surface.sum() == 4 * 5


@pytest.mark.parametrize(("shift", "expected_mm"), [((3, 0, 0), 3.0), ((0, 3, 0), 6.0), ((0, 0, 3), 15.0)])
def test_distance_of_two_voxels_is_in_mm(shift, expected_mm):
    i, j, k = shift
    reference = cuboid((9, 9, 9), (1, 1, 1), (2, 2, 2))
    predicted = cuboid((9, 9, 9), (1 + i, 1 + j, 1 + k), (2 + i, 2 + j, 2 + k))
    there, back = Pair(reference, predicted, SPACING_MM).distances_mm
    assert (there.tolist(), back.tolist()) == ([expected_mm], [expected_mm])


def test_distance_counts_every_boundary_voxel_of_its_own_mask():
    reference = cuboid((9, 9, 9), (1, 1, 1), (3, 2, 2))
    predicted = cuboid((9, 9, 9), (2, 1, 1), (6, 2, 2))
    there, back = Pair(reference, predicted, SPACING_MM).distances_mm
    assert (sorted(there), sorted(back)) == ([0, 1], [0, 1, 2, 3])


def test_distance_to_an_empty_mask_is_infinite():
    voxel = cuboid((5, 5, 5), (1, 1, 1), (2, 2, 2))
    there, back = Pair(voxel, np.zeros_like(voxel), SPACING_MM).distances_mm
    assert there.tolist() == [np.inf]
    assert back.size == 0


@pytest.mark.parametrize(
    ("in_reference", "in_predicted", "state"),
    [
        (True, True, "present"),
        (True, False, "missed"),
        (False, True, "spurious"),
        (False, False, "both_empty"),
    ],
)
def test_state_names_the_empty_mask(in_reference, in_predicted, state):
    assert Pair(np.full((3, 3, 3), in_reference), np.full((3, 3, 3), in_predicted), SPACING_MM).state == state


def test_masks_on_two_grids_are_refused():
    with pytest.raises(GeometryError, match=r"\(3, 4, 5\) and prediction \(3, 4, 6\)"):
        Pair(np.ones((3, 4, 5), dtype=bool), np.ones((3, 4, 6), dtype=bool), SPACING_MM)


@pytest.mark.parametrize("bad_mm", [(1, 1, 0), (1, -1, 1), (1, np.nan, 1), (1, 1)])
def test_spacing_that_is_no_distance_is_refused(bad_mm):
    with pytest.raises(GeometryError) as caught:
        Pair(np.ones((3, 4, 5), dtype=bool), np.ones((3, 4, 5), dtype=bool), bad_mm)
    assert caught.value.code == "SPACING_INVALID"


def test_label_map_in_place_of_a_mask_is_refused():
    with pytest.raises(DataError) as caught:
        Pair(np.ones((3, 4, 5), dtype=np.uint8), np.ones((3, 4, 5), dtype=bool), SPACING_MM)
    assert caught.value.code == "MASK_NOT_BOOL"
