"""Lesions and their organ on phantoms that can be counted by hand."""

import numpy as np
import pytest

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.postprocess.surroundings import keep_inside, keep_touching

SPACING_MM = (1.0, 2.0, 5.0)
SHAPE = (12, 9, 7)
GRID = Geometry.of_spacing(SHAPE, SPACING_MM)


@pytest.fixture
def organ():
    """Label 1, 4 x 4 x 3 voxels."""
    labels_IJK = np.zeros(SHAPE, dtype=np.uint8)
    labels_IJK[2:6, 2:6, 2:5] = 1
    return labels_IJK


def count(labels_IJK, label=2):
    return int(np.sum(labels_IJK == label))


def test_a_lesion_enclosed_by_its_organ_stays(organ):
    organ[3:5, 3:5, 3] = 2
    assert np.array_equal(keep_inside(organ, GRID, inside=[1]), organ)
    assert np.array_equal(keep_touching(organ, GRID, touching=[1]), organ)


def test_a_lesion_elsewhere_goes(organ):
    clean = organ.copy()
    organ[9:11, 7, 6] = 2
    assert np.array_equal(keep_inside(organ, GRID, inside=[1]), clean)
    assert np.array_equal(keep_touching(organ, GRID, touching=[1]), clean)


def test_a_lesion_in_the_fluid_of_a_cavity_is_inside(organ):
    organ[3:5, 3:5, 3] = 0
    organ[3, 3, 3] = 2
    assert count(keep_inside(organ, GRID, inside=[1])) == 1


def test_a_lesion_at_the_edge_keeps_what_is_within_the_distance(organ):
    organ[6:10, 3, 3] = 2  # 1, 2, 3 and 4 mm beyond the organ's last voxels
    assert [count(keep_inside(organ, GRID, inside=[1], distance_mm=mm)) for mm in (0, 1, 2.9, 3, 9)] == [
        *(0, 1, 2, 3, 4)
    ]


@pytest.mark.parametrize(("place", "mm"), [((6, 3, 3), 1.0), ((3, 6, 3), 2.0), ((3, 3, 5), 5.0)])
def test_distances_are_millimetres_along_every_axis(organ, place, mm):
    organ[place] = 2
    assert count(keep_inside(organ, GRID, inside=[1], distance_mm=mm)) == 1
    assert count(keep_inside(organ, GRID, inside=[1], distance_mm=0.99 * mm)) == 0


def test_a_distance_of_exactly_the_limit_is_kept_in_the_last_bit(organ):
    tenths = Geometry.of_spacing(SHAPE, (0.1, 2.0, 5.0))
    organ[6:9, 3, 3] = 2  # 3 * 0.1 > 0.3 in binary
    assert count(keep_inside(organ, tenths, inside=[1], distance_mm=0.3)) == 3


def test_several_labels_together_are_the_place(organ):
    organ[6:8, 2:6, 2:5] = 3
    organ[5:7, 3:5, 3] = 2  # half in each, enclosed by both together only
    assert count(keep_inside(organ, GRID, inside=[1])) == 0
    assert count(keep_inside(organ, GRID, inside=[1, 3])) == 4


def test_a_component_that_touches_stays_whole(organ):
    organ[6:10, 3, 3] = 2
    assert count(keep_touching(organ, GRID, touching=[1])) == 4


@pytest.mark.parametrize(("connectivity", "left"), [(6, 0), (18, 0), (26, 1)])
def test_connectivity_says_what_touches(organ, connectivity, left):
    organ[6, 6, 5] = 2  # over a corner
    assert count(keep_touching(organ, GRID, touching=[1], connectivity=connectivity)) == left


@pytest.mark.parametrize(("distance_mm", "left"), [(2.9, 0), (3.0, 2)])
def test_a_component_that_comes_near_stays_whole(organ, distance_mm, left):
    organ[8:10, 3, 3] = 2
    assert count(keep_touching(organ, GRID, touching=[1], distance_mm=distance_mm)) == left


def test_a_scan_without_the_organ_keeps_no_lesion():
    labels_IJK = np.full(SHAPE, 2, dtype=np.uint8)
    assert not keep_inside(labels_IJK, GRID, inside=[1]).any()
    assert not keep_touching(labels_IJK, GRID, touching=[1]).any()


def test_a_ring_in_one_slice_of_a_volume_encloses_nothing(organ):
    organ[:] = 0
    organ[2:7, 2:7, 3] = 1
    organ[3:6, 3:6, 3] = 2
    assert count(keep_inside(organ, GRID, inside=[1])) == 0


def test_a_ring_in_a_2d_image_encloses():
    labels_IJK = np.zeros((9, 9, 1), dtype=np.uint8)
    labels_IJK[2:7, 2:7] = 1
    labels_IJK[3:6, 3:6] = 2
    assert count(keep_inside(labels_IJK, Geometry.of_spacing((9, 9, 1), SPACING_MM), inside=[1])) == 9


def test_lesions_too_far_for_any_box_go_without_a_distance_map(organ):
    organ[11, 8, 6] = 2
    assert count(keep_inside(organ, GRID, inside=[1], distance_mm=1.0)) == 0


def test_background_named_by_mistake_is_no_place(organ):
    organ[9, 7, 6] = 2
    assert count(keep_inside(organ, GRID, inside=[0, 1], labels=[0, 2])) == 0


def test_unknown_connectivity_is_refused(organ):
    with pytest.raises(ConfigError, match="connectivity 8"):
        keep_touching(organ, GRID, touching=[1], connectivity=8)
