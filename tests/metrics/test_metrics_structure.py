import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.metrics.area import measure_area, weigh_directions
from medseg.metrics.structure import EMPTY, find_structures, measure_intensities, measure_structure
from tests.builders import make_rotation

SPACING_MM = (0.75, 1.5, 3.0)


def make_ball(radius_mm, spacing_mm, shift=0.3):
    axes = [(np.arange(-int(radius_mm / mm) - 2, int(radius_mm / mm) + 3) + shift) * mm for mm in spacing_mm]
    i, j, k = np.meshgrid(*axes, indexing="ij")
    return i**2 + j**2 + k**2 <= radius_mm**2


@pytest.mark.parametrize(
    ("radius_mm", "spacing_mm", "tolerance"),
    [(5, (1.0, 1.0, 1.0), 0.01), (12, SPACING_MM, 0.03), (20, (1.0, 1.0, 5.0), 0.03)],
)
def test_the_surface_of_a_ball_is_that_of_the_sphere(radius_mm, spacing_mm, tolerance):
    area = measure_area(make_ball(radius_mm, spacing_mm), spacing_mm)

    assert area == pytest.approx(4 * np.pi * radius_mm**2, rel=tolerance)


def test_the_surface_of_a_hollow_ball_counts_both_sides():
    outer, inner = make_ball(9, (1.0, 1.0, 1.0)), make_ball(4, (1.0, 1.0, 1.0))
    hole = np.pad(inner, (outer.shape[0] - inner.shape[0]) // 2)
    areas = [measure_area(mask, (1.0, 1.0, 1.0)) for mask in (outer, hole, outer & ~hole)]

    assert areas[2] == pytest.approx(areas[0] + areas[1])


def test_the_surface_of_a_box_along_the_grid_is_known_to_come_out_too_small():
    assert measure_area(np.ones((10, 10, 10), bool), (1.0, 1.0, 1.0)) / 600 == pytest.approx(0.874, abs=0.001)


def test_directions_divide_the_sphere():
    weights = weigh_directions(SPACING_MM)

    assert sum(weights) == pytest.approx(1)
    assert len(weights) == 13 and min(weights) > 0


def test_a_structure_of_two_parts_is_counted_by_hand():
    mask = np.zeros((4, 3, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True  # one part: they touch by a corner
    mask[3, 2, 0] = True
    affine = np.eye(4)
    affine[:3, :3] = np.diag((-2.0, 1.0, 5.0))  # runs towards the left
    affine[:3, 3] = (10, 20, 30)
    row = measure_structure(mask, (5, 0, 0), Geometry((20, 20, 20), affine))

    assert row.keys() == EMPTY.keys()
    assert (row["voxels"], row["components"]) == (3, 2)
    assert (row["volume_ml"], row["largest_component_ml"]) == pytest.approx((0.03, 0.02))
    assert [row[f"box_{axis}_mm"] for axis in "ijk"] == [8, 3, 10]
    assert [row[f"centroid_{axis}_mm"] for axis in "ras"] == pytest.approx(
        [10 - 2 * (5 + 4 / 3), 21, 30 + 5 / 3]
    )


def test_a_turned_grid_turns_the_centroid_and_nothing_else():
    mask, affine = make_ball(6, SPACING_MM), np.eye(4)
    affine[:3, :3] = make_rotation((20, 30, 40)) * SPACING_MM
    turned = measure_structure(mask, (0, 0, 0), Geometry(mask.shape, affine))
    straight = measure_structure(mask, (0, 0, 0), Geometry.of_spacing(mask.shape, SPACING_MM))
    places = ["centroid_r_mm", "centroid_a_mm", "centroid_s_mm"]

    assert {k: v for k, v in turned.items() if k not in places} == pytest.approx(
        {k: v for k, v in straight.items() if k not in places}
    )
    there = make_rotation((20, 30, 40)) @ [straight[key] for key in places]
    assert [turned[key] for key in places] == pytest.approx(list(there))


def test_a_single_slice_has_no_surface():
    row = measure_structure(np.ones((2, 2, 1), bool), (0, 0, 0), Geometry.of_spacing((5, 5, 1), (1, 1, 1)))

    assert row["surface_mm2"] is None


@pytest.mark.parametrize("values", [(1, 3), (2, 70_000), (5, 2**40)])
@pytest.mark.parametrize("corner", [0, -1])
def test_labels_of_any_size_are_found_in_their_boxes(values, corner):
    labels = np.zeros((3, 4, 5), np.int64)
    labels[1:, 2, 1:3], labels[0, 0, 0] = values[0], corner
    labels[0, 3, 4] = values[1]

    assert dict(find_structures(labels)) == {
        values[0]: (slice(1, 3), slice(2, 3), slice(1, 3)),
        values[1]: (slice(0, 1), slice(3, 4), slice(4, 5)),
    }


def test_a_map_without_background_has_its_labels():
    assert [value for value, _ in find_structures(np.array([[[70_000, 7]]]))] == [7, 70_000]


def test_intensities_are_numpys():
    values = np.array([1, 5, 2, 9], np.uint8)
    row = measure_intensities(values)

    assert (row["intensity_mean"], row["intensity_median"]) == (4.25, 3.5)
    assert row["intensity_sd"] == pytest.approx(np.std(values, ddof=1))
    assert row["intensity_p95"] == pytest.approx(np.percentile(values, 95))
    assert (row["intensity_min"], row["intensity_max"]) == (1, 9)


def test_one_voxel_has_no_spread_and_none_has_no_intensity():
    assert measure_intensities(np.array([3]))["intensity_sd"] is None
    assert set(measure_intensities(np.array([])).values()) == {None}
