from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

import tests.builders  # noqa: F401 - its hypothesis profile
from medseg.io.dicom.labels import contours
from medseg.io.dicom.labels.contours import rasterise, trace

SQUARE = np.array([[0.5, 1.5], [3.5, 1.5], [3.5, 3.5], [0.5, 3.5]])  # 3 columns from 1, 2 rows from 2


def mask_of(*rows: str) -> NDArray[np.bool_]:
    """Return a mask from its picture: rows of `#` and `.`."""
    return np.array([[letter == "#" for letter in row] for row in rows]).T


def enclosed_area(polygon: NDArray[np.float64]) -> float:
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2


masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@given(masks)
def test_tracing_and_rasterising_give_every_mask_back(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(rasterise(trace(mask), mask.shape), mask)


@given(masks, st.floats(-0.49, 0.49), st.floats(-0.49, 0.49))
def test_traced_outlines_bear_a_shift_of_almost_half_a_pixel(
    mask: NDArray[np.bool_], column: float, row: float
) -> None:
    moved = [polygon + (column, row) for polygon in trace(mask)]
    np.testing.assert_array_equal(rasterise(moved, mask.shape), mask)


@given(masks)
def test_outlines_are_disjoint_so_uniting_and_alternating_readers_agree(mask: NDArray[np.bool_]) -> None:
    painted = [rasterise([polygon], mask.shape) for polygon in trace(mask)]
    assert np.sum(painted, axis=0, initial=0).max(initial=0) <= 1


@given(masks)
def test_outlines_enclose_the_area_of_their_pixels(mask: NDArray[np.bool_]) -> None:
    assert sum(enclosed_area(polygon) for polygon in trace(mask)) == mask.sum()


@given(masks)
def test_outlines_have_no_needless_vertex(mask: NDArray[np.bool_]) -> None:
    for polygon in trace(mask):
        step = np.roll(polygon, -1, 0) - polygon
        directions = np.sign(step)
        assert np.abs(directions).sum(axis=1).tolist() == [1] * len(step)
        assert (directions != np.roll(directions, 1, 0)).any(axis=1).all()


def test_an_empty_mask_has_no_outline() -> None:
    assert trace(np.zeros((4, 3), bool)) == []


def test_a_pixel_is_traced_along_its_four_edges() -> None:
    mask = mask_of("...", ".#.")
    (polygon,) = trace(mask)
    assert {tuple(corner) for corner in polygon} == {(0.5, 0.5), (1.5, 0.5), (1.5, 1.5), (0.5, 1.5)}


def test_pixels_that_touch_at_a_corner_are_two_outlines() -> None:
    assert [len(polygon) for polygon in trace(mask_of("#.", ".#"))] == [4, 4]


def test_a_hole_is_joined_to_the_outline_around_it() -> None:
    (polygon,) = trace(mask_of("#####", "#...#", "#####"))
    assert len(polygon) == 4 + 4 + 2  # both rectangles, and the ends of the channel once more


def test_an_island_in_a_hole_is_an_outline_of_its_own() -> None:
    assert len(trace(mask_of("#####", "#...#", "#.#.#", "#...#", "#####"))) == 2


def test_a_channel_may_end_at_another_hole() -> None:
    mask = mask_of("#######", "#.###.#", "#######")
    assert len(trace(mask)) == 1
    np.testing.assert_array_equal(rasterise(trace(mask), mask.shape), mask)


def test_a_polygon_holds_the_pixels_whose_centres_it_encloses() -> None:
    expected = mask_of(".....", ".....", ".###.", ".###.", ".....")
    np.testing.assert_array_equal(rasterise([SQUARE], (5, 5)), expected)


def test_the_sense_of_rotation_does_not_matter() -> None:
    np.testing.assert_array_equal(rasterise([SQUARE[::-1]], (5, 5)), rasterise([SQUARE], (5, 5)))


def test_a_polygon_inside_another_is_a_hole() -> None:
    outer = np.array([[-0.5, -0.5], [4.5, -0.5], [4.5, 4.5], [-0.5, 4.5]])
    assert rasterise([outer, SQUARE], (5, 5)).sum() == 25 - 6


def test_centres_on_an_edge_go_to_the_polygon_right_of_or_below_it() -> None:
    left = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 3.0], [0.0, 3.0]])
    right = left + (2.0, 0.0)
    np.testing.assert_array_equal(rasterise([left], (5, 4)), mask_of("##...", "##...", "##...", "....."))
    assert not (rasterise([left], (5, 4)) & rasterise([right], (5, 4))).any()


def test_rounding_noise_does_not_move_an_edge_off_a_centre() -> None:
    square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 3.0], [0.0, 3.0]])
    noisy = square + 1e-9 * np.array([[1, -1], [1, 1], [-1, 1], [1, -1]])
    np.testing.assert_array_equal(rasterise([noisy], (5, 4)), rasterise([square], (5, 4)))


def test_a_triangle_is_cut_where_its_edge_crosses_rows_of_centres() -> None:
    triangle = np.array([[-0.5, -0.5], [3.5, -0.5], [-0.5, 3.5]])  # centres with column + row < 3
    np.testing.assert_array_equal(rasterise([triangle], (4, 4)), mask_of("###.", "##..", "#...", "...."))


def test_what_lies_outside_the_slice_is_cut_off() -> None:
    huge = np.array([[-1e12, -1e12], [2.5, -1e12], [2.5, 1e12], [-1e12, 1e12]])
    np.testing.assert_array_equal(rasterise([huge], (4, 2)), mask_of("###.", "###."))


@pytest.mark.parametrize("vertices", [0, 1, 2])
def test_fewer_than_three_vertices_enclose_nothing(vertices: int) -> None:
    assert not rasterise([SQUARE[:vertices]], (5, 5)).any()


def test_many_crossings_are_handled_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(0).random((40, 30)) < 0.5
    monkeypatch.setattr(contours, "MAX_CROSSINGS", 7)
    np.testing.assert_array_equal(rasterise(trace(mask), mask.shape), mask)
