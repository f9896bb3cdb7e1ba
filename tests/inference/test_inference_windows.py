from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.inference.windows import find_content, gaussian_weights, plan_windows

edges = st.integers(1, 12)
overlaps = st.floats(0, 0.95)


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape, patch) with no axis of the shape below the patch's."""
    patch = tuple(draw(edges) for _ in range(3))
    return tuple(edge + draw(st.integers(0, 25)) for edge in patch), patch


def spans(shape, patch, overlap: float) -> list[tuple[slice, ...]]:
    plan = plan_windows(shape, patch, overlap)
    return [tuple(slice(a, a + edge) for a, edge in zip(start, patch)) for start in plan.windows]


def starts_along(windows: list, axis: int) -> list[int]:
    return sorted({window[axis].start for window in windows})


@given(grids(), overlaps)
def test_every_voxel_is_seen(grid, overlap: float):
    shape, patch = grid
    seen = np.zeros(shape, bool)
    for window in spans(shape, patch, overlap):
        seen[window] = True
    assert seen.all()


@given(grids(), overlaps)
def test_every_window_is_a_whole_patch_inside_the_image(grid, overlap: float):
    shape, patch = grid
    for window in spans(shape, patch, overlap):
        assert tuple(span.stop - span.start for span in window) == patch
        assert all(span.start >= 0 and span.stop <= size for span, size in zip(window, shape))


@given(grids(), overlaps)
def test_neighbours_overlap_at_least_as_asked(grid, overlap: float):
    shape, patch = grid
    windows = spans(shape, patch, overlap)
    for axis, edge in enumerate(patch):
        steps = np.diff(starts_along(windows, axis))
        assert all(step <= ceil(max(1, edge * (1 - overlap)) - 1e-9) for step in steps)


@given(grids(), overlaps)
def test_the_last_step_is_like_the_others(grid, overlap: float):
    shape, patch = grid
    windows = spans(shape, patch, overlap)
    for axis in range(3):
        steps = np.diff(starts_along(windows, axis))
        assert not steps.size or steps.max() - steps.min() <= 1


@given(grids(), overlaps)
def test_no_window_is_placed_twice(grid, overlap: float):
    windows = spans(*grid, overlap)
    assert len({tuple(span.start for span in window) for window in windows}) == len(windows)


def test_windows_of_a_small_image_can_be_counted_by_hand():
    windows = spans((10, 4, 6), (4, 4, 4), 0.5)
    assert starts_along(windows, 0) == [0, 2, 4, 6] and starts_along(windows, 1) == [0]
    assert starts_along(windows, 2) == [0, 2] and len(windows) == 8


def test_without_overlap_the_fewest_windows_cover_the_image():
    assert len(spans((8, 4, 9), (4, 4, 4), 0)) == 2 * 1 * 3


def place_like_nnunet(size: int, edge: int, step_share: float) -> list[int]:
    """nnU-Net's `compute_steps_for_sliding_window`, along one axis."""
    count = int(np.ceil((size - edge) / (edge * step_share))) + 1
    step = (size - edge) / (count - 1) if count > 1 else np.inf
    return [int(np.round(step * index)) if index else 0 for index in range(count)]


@pytest.mark.parametrize("overlap", [0.5, 0.25])
def test_windows_lie_where_nnunet_places_them_also_for_odd_edges(overlap: float):
    for edge in (7, 8, 9, 11, 13, 15, 21, 40, 57):
        for size in range(edge, 6 * edge):
            starts = plan_windows((size, edge, edge), (edge, edge, edge), overlap).starts[0]
            assert list(starts) == place_like_nnunet(size, edge, 1 - overlap), (edge, size)


def test_a_step_that_rounding_makes_a_little_shorter_costs_no_window():
    assert plan_windows((19, 10, 10), (10, 10, 10), 0.9).starts[0] == tuple(range(10))  # 10 * (1 - 0.9) < 1


@given(grids(), overlaps)
def test_windows_come_in_order_along_the_slab_axis(grid, overlap: float):
    plan = plan_windows(*grid, overlap)
    along = [start[plan.axis] for start in plan.windows]
    assert along == sorted(along) and len(plan.windows) == len(plan)


def test_the_slab_axis_needs_the_smallest_buffer_and_of_equals_comes_first():
    assert plan_windows((40, 30, 20), (8, 8, 8), 0.5).axis == 0  # 8 * 30 * 20 against 40 * 8 * 20
    assert plan_windows((40, 40, 20), (8, 4, 8), 0.5).axis == 1
    assert plan_windows((40, 40, 50), (8, 8, 1), 0.5).axis == 2
    assert plan_windows((8, 8, 8), (4, 4, 4), 0.5).axis == 0
    assert plan_windows((10, 4, 4), (20, 4, 2), 0.5).axis == 2  # no more planes than there are


def test_where_the_image_is_shorter_windows_hang_over_evenly():
    plan = plan_windows((3, 4, 9), (6, 4, 4), 0)
    assert plan.starts == ((-1,), (0,), (0, 2, 5)) and plan.padding == ((1, 2), (0, 0), (0, 0))
    assert (plan.axis, plan.depth, plan.plane) == (2, 4, (3, 4))


def test_a_box_is_covered_and_what_lies_outside_is_skipped():
    box = (slice(10, 22), slice(0, 3), slice(17, 19))
    plan = plan_windows((30, 8, 20), (6, 4, 8), 0.5, box=box)
    assert plan.starts == ((10, 13, 16), (0,), (12,))  # not before or behind the image
    assert plan.skipped == 9 * 3 * 4 - 3


@pytest.mark.parametrize(
    ("box", "is_partial"),
    [
        ((slice(0, 20), slice(0, 8), slice(0, 5)), False),
        ((slice(1, 20), slice(0, 8), slice(0, 5)), True),  # 4 windows either way
        ((slice(0, 20), slice(3, 6), slice(2, 4)), False),  # a window is longer than the box
    ],
)
def test_a_plan_knows_whether_it_sees_every_voxel(box, is_partial: bool):
    plan = plan_windows((20, 8, 5), (8, 8, 8), 0.5, box=box)
    assert (plan.is_partial, plan.skipped) == (is_partial, 0)


def test_a_plan_tells_what_it_does():
    plan = plan_windows((30, 2, 20), (6, 4, 8), 0.5, box=(slice(10, 22), slice(0, 2), slice(0, 20)))
    assert plan.describe() == (
        "12 windows (3x1x4) of 6x4x8 in 30x2x20 voxels, slabs along axis i, padded by 0+0, 1+1, 0+0, "
        "24 skipped"
    )
    assert "skipped" not in plan_windows((6, 6, 6), (6, 6, 6), 0).describe()


def test_content_is_what_is_not_air_in_any_channel():
    image = torch.zeros(2, 9, 8, 7)
    image[0, 2, 3, 4], image[1, 5, 1, 4] = 100, -3
    assert find_content(image) == (slice(2, 6), slice(1, 4), slice(4, 5))
    assert find_content(torch.ones(1, 3, 3, 3)) is None and find_content(torch.ones(1, 1, 1, 1)) is None


def test_a_very_bright_organ_hides_no_faint_one():
    suv = torch.zeros(1, 12, 12, 40)
    suv[0, 2:10, 2:10, :] = 1  # a body from face to face
    suv[0, 5:7, 5:7, 3:5] = 400  # the bladder
    assert find_content(suv.half()) == (slice(2, 10), slice(2, 10), slice(0, 40))
    suv[0, 2:10, 2:10, :36] = 0  # without a body: a faint lesion far from the bladder
    suv[0, 5:7, 5:7, 3:5] = 400
    suv[0, :, :, 36:] = 0
    suv[0, 8, 8, 36] = 6
    assert find_content(suv.half()) == (slice(5, 9), slice(5, 9), slice(3, 37))


def test_the_noise_of_air_is_told_by_the_darkest_face():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 20, 16, 12), generator=generator) * 0.01 - 1  # air
    image[0, 4:15, 5:11, 0:8] = 1.5
    image[0, 19, 15, 11] = 3  # on three of the faces
    assert find_content(image[:, :19].half()) == (slice(4, 15), slice(5, 11), slice(0, 8))
    assert find_content(image.half()) == (slice(4, 20), slice(5, 16), slice(0, 12))


def test_where_every_face_may_hold_tissue_the_box_is_everything():
    image = 10 + torch.rand((1, 20, 16, 12), generator=torch.Generator().manual_seed(0))
    image[0, 9:11, 9:11, 5:7] = 8000
    assert find_content(image.half()) is None


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(3, 12)] * 3),
    noise=st.sampled_from([0.0, 0.001, 0.004, 0.02, 0.3]),
    level=st.sampled_from([0.0, -1.0, 37.0]),
    hot=st.lists(st.tuples(*[st.floats(0, 0.99)] * 3), max_size=5),
    brightness=st.sampled_from([2.0, 50.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_hot_voxels_cost_no_tissue(shape, noise: float, level: float, hot, brightness: float, seed: int):
    rng = np.random.default_rng(seed)
    image = level + noise * rng.random(shape)
    ends = [sorted(rng.choice(size + 1, 2, replace=False)) for size in shape]
    body = tuple(slice(int(a), int(b)) for a, b in ends)
    image[body] = level + rng.uniform(1, 2, [part.stop - part.start for part in body])
    for place in hot:
        image[tuple(int(share * size) for share, size in zip(place, shape))] = brightness
    box = find_content(torch.from_numpy(image[None]).half())
    assert box is None or all(
        found.start <= part.start and part.stop <= found.stop for found, part in zip(box, body)
    )


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
