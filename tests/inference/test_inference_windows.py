import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg.inference.windows import gaussian_weights, place_windows

edges = st.integers(1, 12)
overlaps = st.floats(0, 0.95)


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape, patch) with no axis of the shape below the patch's."""
    patch = tuple(draw(edges) for _ in range(3))
    return tuple(edge + draw(st.integers(0, 25)) for edge in patch), patch


def starts_along(windows: list, axis: int) -> list[int]:
    return sorted({window[axis].start for window in windows})


@given(grids(), overlaps)
def test_every_voxel_is_seen(grid, overlap: float):
    shape, patch = grid
    seen = np.zeros(shape, bool)
    for window in place_windows(shape, patch, overlap):
        seen[window] = True
    assert seen.all()


@given(grids(), overlaps)
def test_every_window_is_a_whole_patch_inside_the_image(grid, overlap: float):
    shape, patch = grid
    for window in place_windows(shape, patch, overlap):
        assert tuple(span.stop - span.start for span in window) == patch
        assert all(span.start >= 0 and span.stop <= size for span, size in zip(window, shape))


@given(grids(), overlaps)
def test_neighbours_overlap_at_least_as_asked(grid, overlap: float):
    shape, patch = grid
    windows = place_windows(shape, patch, overlap)
    for axis, edge in enumerate(patch):
        steps = np.diff(starts_along(windows, axis))
        assert all(step <= max(1, edge * (1 - overlap)) + 1e-9 for step in steps)


@given(grids(), overlaps)
def test_the_last_step_is_like_the_others(grid, overlap: float):
    shape, patch = grid
    windows = place_windows(shape, patch, overlap)
    for axis in range(3):
        steps = np.diff(starts_along(windows, axis))
        assert not steps.size or steps.max() - steps.min() <= 1


@given(grids(), overlaps)
def test_no_window_is_placed_twice(grid, overlap: float):
    windows = place_windows(*grid, overlap)
    assert len({tuple(span.start for span in window) for window in windows}) == len(windows)


def test_windows_of_a_small_image_can_be_counted_by_hand():
    windows = place_windows((10, 4, 6), (4, 4, 4), 0.5)
    assert starts_along(windows, 0) == [0, 2, 4, 6] and starts_along(windows, 1) == [0]
    assert starts_along(windows, 2) == [0, 2] and len(windows) == 8


def test_without_overlap_the_fewest_windows_cover_the_image():
    assert len(place_windows((8, 4, 9), (4, 4, 4), 0)) == 2 * 1 * 3


def test_weights_are_symmetric_and_highest_in_the_middle():
    weights = gaussian_weights((8, 5, 1))
    assert weights.shape == (8, 5, 1) and weights.dtype is torch.float32
    assert torch.equal(weights, weights.flip(0)) and torch.equal(weights, weights.flip(1))
    assert weights.max() == weights[3, 2, 0] == weights[4, 2, 0] > weights[2, 2, 0]


def test_sigma_is_an_eighth_of_the_edge():
    # one sigma, 2 voxels, from the middle of an odd edge of 16 + 1
    weights = gaussian_weights((17, 1, 1))[:, 0, 0]
    assert float(weights[8]) == 1
    assert float(weights[10]) == pytest.approx(np.exp(-0.5 * (2 / (17 / 8)) ** 2))


@given(st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64)))
def test_no_weight_is_too_small_to_divide_by(patch: tuple[int, int, int]):
    assert float(gaussian_weights(patch).min()) >= 0.99e-4
