from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import map_coordinates

from medseg.data.augment import SpatialDraw, apply_spatial, draw_spatial, read_box
from medseg.data.settings import Augment
from tests.builders import NOTHING, make_plan

SHAPE = (12, 10, 8)
PATCH = (6, 5, 4)
CHANGES = ("rotate_p", "rotate90_p", "scale_p", "elastic_p", "grid_distortion_p")
STRONG = {
    "elastic_strength": (0.3, 0.4),
    "grid_distortion_strength": (0.5, 0.9),
    "scale_per_axis": True,
    "scale_range": (0.5, 2.0),
}


def only(*names, **options):
    """Return settings with these changes always and no other ever."""
    return NOTHING.model_copy(update={**dict.fromkeys(names, 1.0), **options})


settings = st.sets(st.sampled_from(CHANGES)).map(lambda names: only(*names, **STRONG))
anisotropic = st.builds(
    make_plan,
    patch=st.tuples(*[st.integers(1, 8)] * 3),
    mirror_axes=st.sets(st.integers(0, 2)).map(lambda axes: tuple(sorted(axes))),
    rotate_axes=st.sampled_from([(0, 1, 2), (0,), (2,)]),
    rotate_degrees=st.floats(0, 180),
    spacing_mm=st.tuples(*[st.floats(0.5, 4)] * 3),
)
cubes = st.builds(
    make_plan,
    patch=st.integers(2, 7).map(lambda edge: (edge,) * 3),
    spacing_mm=st.sampled_from([(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 1.0, 1.001)]),
    mirror_axes=st.sampled_from([(), (0, 2)]),
)
plans = anisotropic | cubes
centres = st.tuples(*[st.integers(0, n - 1) for n in SHAPE])
seeds = st.integers(0, 2**31)
PAIR = ((3, 4),)


def coordinates(shape=SHAPE):
    """Return an image whose three channels are i + 1, j + 1, k + 1: linear interpolation is exact."""
    return np.indices(shape).astype(np.float32) + 1


def number(index):
    """Return a label from 1 to 255 that tells a voxel from its neighbours."""
    i, j, k = np.asarray(index, int)
    return ((7 * i + 5 * j + 3 * k) % 255 + 1).astype(np.uint8)


def draw(seed, plan, centre=(6, 5, 4), augment=NOTHING, **options):
    return draw_spatial(np.random.default_rng(seed), centre, plan, augment, **options)


def apply(image, label, drawn, patch):
    pair = apply_spatial(*read_box(image, label, drawn, patch), drawn, patch)
    return pair[0].numpy(), pair[1].numpy()


def sampled(drawn, patch):
    """Return where in the case each patch voxel is taken from, (3, N), by scipy's splines."""
    places = [np.arange(edge) - (edge - 1) / 2 for edge in patch]
    for axis, knots in enumerate(drawn.knots):
        if knots:
            even = np.linspace(places[axis][0], places[axis][-1], len(knots))
            places[axis] = np.interp(places[axis], even, knots)
    offsets = np.stack(np.meshgrid(*places, indexing="ij")).reshape(3, -1)
    if drawn.control is not None:
        step, counts = np.array(drawn.control_step)[:, None], np.array(drawn.control.shape[1:])[:, None]
        at = offsets / step + (counts - 1) / 2
        offsets = offsets + np.stack(
            [map_coordinates(part, at, order=3, prefilter=False, mode="nearest") for part in drawn.control]
        )
    return drawn.matrix @ offsets + drawn.centre[:, None]


def is_inside(where):
    return ((where >= 0) & (where <= np.array(SHAPE)[:, None] - 1)).all(axis=0)


# --- the draw ----------------------------------------------------------------------------------


@given(plans, centres, seeds, settings)
def test_a_draw_can_be_replayed(plan, centre, seed, augment):
    first, again = (repr(draw(seed, plan, centre, augment)) for _ in range(2))
    assert first == again


@given(plans, centres, seeds)
def test_without_probabilities_nothing_but_flips_is_drawn(plan, centre, seed):
    drawn = draw(seed, plan, centre)
    assert drawn.is_plain
    flipped = {axis for axis in range(3) if drawn.matrix[axis, axis] < 0}
    assert flipped <= set(plan.mirror_axes)


@given(anisotropic, seeds)
def test_a_rotation_is_a_rotation_in_millimetres(plan, seed):
    matrix = draw(seed, plan, augment=only("rotate_p")).matrix
    spacing = np.array(plan.spacing_mm)
    in_mm = spacing[:, None] * matrix / spacing[None, :]
    assert np.allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-9)
    assert abs(np.linalg.det(in_mm)) == pytest.approx(1)
    assert plan.mirror_axes or np.linalg.det(in_mm) > 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_rotation_turns_around_the_planned_axes_only(axis):
    matrix = draw(3, make_plan(rotate_axes=(axis,), rotate_degrees=180.0), augment=only("rotate_p")).matrix
    along = np.eye(3)[axis]
    assert np.array_equal(matrix @ along, along)
    assert np.array_equal(matrix.T @ along, along)
    assert not np.allclose(matrix, np.eye(3))


def test_angles_stay_within_the_planned_degrees():
    plan = make_plan(rotate_axes=(2,), rotate_degrees=10.0, spacing_mm=(1.0, 1.0, 1.0))
    found = [draw(seed, plan, augment=only("rotate_p")).matrix for seed in range(200)]
    degrees = [np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])) for matrix in found]
    assert max(np.abs(degrees)) <= 10
    assert min(degrees) < -8
    assert max(degrees) > 8


def test_a_zoom_above_one_makes_things_larger():
    plan = make_plan(spacing_mm=(1.0, 1.0, 1.0))
    matrix = draw(0, plan, augment=only("scale_p", scale_range=(2, 2))).matrix
    assert np.array_equal(matrix, np.eye(3) / 2)  # half a voxel of the case per voxel of the patch


def test_a_flat_patch_is_not_scaled_across():
    matrix = draw(0, make_plan(patch=(8, 8, 1)), augment=only("scale_p", scale_range=(2, 2))).matrix
    assert np.allclose(np.diag(matrix), [0.5, 0.5, 1])


@pytest.mark.parametrize(("per_axis", "different"), [(False, 1), (True, 3)])
def test_axes_are_scaled_alike_or_each_for_itself(per_axis, different):
    matrix = draw(0, make_plan(), augment=only("scale_p", scale_per_axis=per_axis)).matrix
    assert len(set(np.diag(matrix))) == different


def test_quarter_turns_are_drawn_equally_often():
    plan = make_plan(patch=(5, 5, 4), spacing_mm=(1.0, 1.0, 2.0), rotate_axes=(2,))
    found = Counter(
        tuple(draw(seed, plan, augment=only("rotate90_p")).matrix[:, 0].astype(int)) for seed in range(400)
    )
    assert set(found) == {(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)}
    assert min(found.values()) > 70


@pytest.mark.parametrize(
    ("patch", "spacing_mm"), [((5, 4, 3), (1.0,) * 3), ((4, 4, 4), (1.0, 2.0, 4.0)), ((1, 1, 4), (1.0,) * 3)]
)
def test_axes_that_differ_are_not_turned_into_each_other(patch, spacing_mm):
    plan = make_plan(patch=patch, spacing_mm=spacing_mm)
    drawn = [draw(seed, plan, augment=only("rotate90_p")).matrix for seed in range(20)]
    assert all(np.array_equal(matrix, np.eye(3)) for matrix in drawn)


def test_control_points_are_as_far_apart_in_mm_on_every_axis():
    plan = make_plan(patch=(25, 13, 1), spacing_mm=(1.0, 2.0, 5.0))
    drawn = draw(0, plan, augment=only("elastic_p", elastic_cells=4))  # 24 mm in 4 cells
    assert drawn.control_step == (6.0, 3.0, 1.2)
    assert drawn.control.shape == (3, 7, 7, 1)


def test_where_patches_turn_in_plane_only_no_voxel_leaves_its_slice():
    plan = make_plan(patch=(8, 8, 4), rotate_axes=(2,))
    drawn = draw(0, plan, augment=only("elastic_p", "grid_distortion_p"))
    assert not drawn.control[2].any() and drawn.control[:2].all()
    assert [len(knots) for knots in drawn.knots] == [5, 5, 0]


def test_a_single_voxel_has_nothing_to_bend():
    drawn = draw(0, make_plan(patch=(1, 1, 1)), augment=only("elastic_p", "grid_distortion_p"))
    assert drawn.is_plain


@given(anisotropic, seeds)
def test_grid_distortion_keeps_the_ends_and_the_order(plan, seed):
    drawn = draw(seed, plan, augment=only("grid_distortion_p", **STRONG))
    for edge, knots in zip(plan.patch, drawn.knots, strict=True):
        assert (np.diff(knots) > 0).all()
        assert not knots or (knots[0], knots[-1]) == pytest.approx(((1 - edge) / 2, (edge - 1) / 2))


def smallest_determinant(share):
    """Return the least Jacobian determinant where all control points go `share` of a cell inwards."""
    plan = make_plan(patch=(41, 41, 41), spacing_mm=(1.0, 1.0, 1.0))
    drawn = draw(0, plan, augment=only("elastic_p"))
    signs = np.where(np.indices(drawn.control.shape[1:]) < 3, 1.0, -1.0)
    where = sampled(replace(drawn, control=signs * drawn.control_step[0] * share), plan.patch)
    jacobian = np.stack([np.stack(np.gradient(part.reshape(plan.patch))) for part in where])
    return np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min()


def test_the_largest_strength_does_not_fold_and_twice_as_much_would():
    assert smallest_determinant(0.4) > 0
    assert smallest_determinant(0.8) < 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"elastic_strength": (0, 0.41)},
        {"grid_distortion_strength": (0, 1)},
        {"scale_range": (1.2, 0.8)},
        {"grid_distortion_cells": 1},
    ],
)
def test_strengths_that_fold_and_ranges_that_fall_are_refused(wrong):
    with pytest.raises(ValidationError):
        Augment(**wrong)


# --- applied -----------------------------------------------------------------------------------


@given(st.tuples(*[st.integers(1, 7)] * 3), st.data())
def test_an_empty_draw_cuts_exactly_the_box_around_its_centre(patch, data):
    half = np.array(patch) // 2
    centre = np.array(
        [data.draw(st.integers(h, n - e + h)) for h, n, e in zip(half, SHAPE, patch, strict=True)]
    )
    drawn = draw(0, make_plan(patch=patch), centre)
    image, label = apply(coordinates(), number(np.indices(SHAPE)), drawn, patch)
    box = tuple(slice(a, a + e) for a, e in zip(centre - half, patch, strict=True))
    assert np.array_equal(image, coordinates()[(slice(None), *box)])
    assert np.array_equal(label, number(np.indices(SHAPE))[box])


@given(plans, centres, seeds)
def test_a_flipped_patch_is_the_patch_flipped(plan, centre, seed):
    flipped = draw(seed, plan, centre)
    plain = draw(seed, replace(plan, mirror_axes=()), centre)
    axes = tuple(axis for axis in range(3) if flipped.matrix[axis, axis] < 0)
    case = coordinates(), number(np.indices(SHAPE))
    cut, turned = (apply(*case, drawn, plan.patch) for drawn in (plain, flipped))
    assert np.array_equal(turned[0], np.flip(cut[0], tuple(axis + 1 for axis in axes)))
    assert np.array_equal(turned[1], np.flip(cut[1], axes))


@given(st.integers(2, 6), centres, seeds, st.sampled_from([(0,), (1,), (2,)]))
def test_a_quarter_turn_is_an_exact_copy(edge, centre, seed, axes):
    plan = make_plan(patch=(edge,) * 3, spacing_mm=(1.0, 1.0, 1.0), rotate_axes=axes)
    drawn = draw(seed, plan, centre, only("rotate90_p"))
    case = coordinates(), number(np.indices(SHAPE))
    cut, turned = (apply(*case, one, plan.patch) for one in (draw(seed, plan, centre), drawn))
    a, b = (axis for axis in range(3) if axis not in axes)
    quarters = [np.rot90(cut[1], turns, (a, b)) for turns in range(4)]
    (fitting,) = [turns for turns in range(4) if np.array_equal(quarters[turns], turned[1])][:1]
    assert drawn.is_plain
    assert np.array_equal(turned[0], np.rot90(cut[0], fitting, (a + 1, b + 1)))


@given(plans, centres, seeds, settings)
def test_the_image_is_sampled_where_the_draw_says(plan, centre, seed, augment):
    drawn = draw(seed, plan, centre, augment)
    image, _ = apply(coordinates(), np.zeros(SHAPE, np.uint8), drawn, plan.patch)
    wanted = sampled(drawn, plan.patch)
    inside = is_inside(wanted)
    assert np.allclose(image.reshape(3, -1)[:, inside] - 1, wanted[:, inside], atol=1e-3)


@given(plans, centres, seeds, settings)
def test_image_and_label_are_sampled_on_one_grid(plan, centre, seed, augment):
    drawn = draw(seed, plan, centre, augment)
    image, label = apply(coordinates(), number(np.indices(SHAPE)), drawn, plan.patch)
    where = image.reshape(3, -1) - 1
    nearest = np.rint(where)
    # Not halfway between two voxels, and not at the rim, where the image fades into the outside.
    sure = (np.abs(where - nearest) < 0.49).all(axis=0) & is_inside(sampled(drawn, plan.patch))
    assert np.array_equal(label.ravel()[sure], number(nearest[:, sure]))


def board(cell):
    return ((np.indices(SHAPE) // cell).sum(axis=0) % 2).astype(np.uint8)


@given(plans, centres, seeds, settings, st.integers(1, 4))
def test_a_checkerboard_is_the_same_in_image_and_label(plan, centre, seed, augment, cell):
    image, label = apply(board(cell)[None], board(cell), draw(seed, plan, centre, augment), plan.patch)
    sure = np.abs(image[0] - 0.5) > 0.376  # the nearest voxel weighs (1/2)^3 at least: it must be this value
    assert np.array_equal(image[0][sure] > 0.5, label[sure] == 1)


def test_most_of_a_coarse_checkerboard_is_far_from_a_border():
    plan = make_plan(patch=(8, 8, 6), spacing_mm=(1.0, 1.0, 1.0))
    drawn = draw(1, plan, (6, 5, 4), only(*CHANGES))
    image, label = apply(board(4)[None], board(4), drawn, plan.patch)
    sure = np.abs(image[0] - 0.5) > 0.376
    assert sure.mean() > 0.4
    assert set(label[sure]) == {0, 1}


@given(plans, centres, seeds, settings, st.sets(st.integers(1, 255), min_size=1, max_size=4))
def test_no_label_is_invented(plan, centre, seed, augment, values):
    label = np.random.default_rng(seed).choice([0, *values], SHAPE).astype(np.uint8)
    _, turned = apply(coordinates(), label, draw(seed, plan, centre, augment), plan.patch)
    assert turned.dtype == np.uint8
    assert set(np.unique(turned)) <= {0, *values}


@given(plans, centres, seeds, settings)
def test_what_lies_outside_the_case_is_zero(plan, centre, seed, augment):
    drawn = draw(seed, plan, centre, augment)
    ones = np.ones(SHAPE, np.uint8)
    image, label = apply(ones[None], ones, drawn, plan.patch)
    where = sampled(drawn, plan.patch)
    far = ((where < -1.001) | (where > np.array(SHAPE)[:, None] + 0.001)).any(axis=0)
    assert not image.ravel()[far].any()
    assert not label.ravel()[far].any()


class Noting:
    """An array that notes which box of it was read."""

    def __init__(self, array):
        self.array, self.shape, self.boxes = array, array.shape, []

    def __getitem__(self, box):
        self.boxes.append([(part.start, part.stop) for part in box[-3:]])
        return self.array[box]


@given(plans, centres, seeds, settings)
def test_the_same_box_and_little_more_than_is_touched_is_read(plan, centre, seed, augment):
    drawn = draw(seed, plan, centre, augment)
    image, label = Noting(coordinates()), Noting(number(np.indices(SHAPE)))
    read_box(image, label, drawn, plan.patch)
    assert image.boxes == label.boxes and len(image.boxes) == 1
    where = sampled(drawn, plan.patch)
    reach = np.zeros(3) if drawn.control is None else np.ptp(drawn.matrix @ drawn.control.reshape(3, -1), 1)
    limits = zip(image.boxes[0], where.min(1) - reach, where.max(1) + reach, SHAPE, strict=True)
    for (start, stop), low, high, size in limits:
        assert start >= min(np.floor(low - 1e-6), size)
        assert stop <= max(np.ceil(high + 1e-6) + 1, 0)


def test_a_patch_larger_than_the_case_is_padded_on_both_sides():
    drawn = draw(0, make_plan(patch=(5, 5, 5)), (1, 1, 1))
    _, label = apply(np.ones((1, 3, 3, 3)), np.ones((3, 3, 3), np.uint8), drawn, (5, 5, 5))
    expected = np.zeros((5, 5, 5), np.uint8)
    expected[1:4, 1:4, 1:4] = 1
    assert np.array_equal(label, expected)


def test_a_ball_in_millimetres_stays_a_ball_when_turned():
    shape, spacing = (41, 31, 15), np.array((0.75, 1.0, 2.0))
    offset = (np.indices(shape) - 20 * np.array((1, 0.75, 0.35)).reshape(3, 1, 1, 1)) * spacing.reshape(
        3, 1, 1, 1
    )
    ball = (np.linalg.norm(offset, axis=0) <= 11).astype(np.uint8)
    plan = make_plan(patch=shape, spacing_mm=tuple(spacing), rotate_degrees=180.0)
    drawn = draw(5, plan, (20, 15, 7), only("rotate_p"))
    assert not np.allclose(drawn.matrix, np.eye(3), atol=0.3)
    _, turned = apply(ball[None], ball, drawn, shape)
    assert 2 * (turned & ball).sum() / (turned.sum() + ball.sum()) > 0.95


def test_a_picture_is_turned_in_its_plane():
    image = np.zeros((1, 9, 9, 1), np.float32)
    image[0, 4, 1:8] = 1  # a bar along j
    almost = np.array([[0.0, -1, 0], [1, 1e-9, 0], [0, 0, 1]])  # a quarter, but not a plain one
    drawn = SpatialDraw(np.array([4.0, 4, 0]), almost)
    turned, label = apply(image, image[0].astype(np.uint8), drawn, (9, 9, 1))
    assert not drawn.is_plain
    assert np.allclose(turned[0, :, 4, 0], [0, 1, 1, 1, 1, 1, 1, 1, 0], atol=1e-5)
    assert np.array_equal(label[..., 0].nonzero()[1], [4] * 7)


def test_a_patch_never_shares_memory_with_its_case():
    image, label = coordinates(), np.ones(SHAPE, np.uint8)
    pair = apply(image, label, draw(0, make_plan(patch=SHAPE)), SHAPE)
    assert not np.shares_memory(pair[0], image)
    assert not np.shares_memory(pair[1], label)


# --- left and right ----------------------------------------------------------------------------


@given(plans, centres, seeds, settings)
def test_a_swapped_pair_changes_places_where_the_patch_is_mirrored(plan, centre, seed, augment):
    drawn = draw(seed, plan, centre, augment, swap=PAIR)
    label = number(np.indices(SHAPE)) % 6
    _, swapped = apply(coordinates(), label, drawn, plan.patch)
    _, kept = apply(coordinates(), label, replace(drawn, swapped=()), plan.patch)
    table = np.array([0, 1, 2, 4, 3, 5]) if drawn.swapped else np.arange(6)
    assert np.array_equal(swapped, table[kept])


def test_labels_are_swapped_in_just_the_patches_that_are_mirrored_left_to_right():
    drawn = [draw(seed, make_plan(mirror_axes=(1,)), swap=PAIR) for seed in range(60)]
    assert all((one.matrix[0, 0] < 0) == (one.swapped == PAIR) for one in drawn)
    assert 15 < sum(bool(one.swapped) for one in drawn) < 45


def test_boxes_are_read_in_the_types_they_are_stored_in():
    drawn = draw(0, make_plan(patch=PATCH))
    pair = read_box(coordinates().astype(np.float16), number(np.indices(SHAPE)), drawn, PATCH)
    assert [part.dtype for part in pair] == [torch.float16, torch.uint8]
