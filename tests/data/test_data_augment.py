import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.data.augment import SpatialDraw, apply_spatial, augment_intensity, draw_spatial
from medseg.data.settings import Augment
from tests.builders import NOTHING, make_plan

SHAPE = (12, 10, 8)
PATCH = (6, 5, 4)
EVERYTHING = Augment(rotate_p=1, scale_p=1)
INTENSITY = [
    name for name in Augment.model_fields if name.endswith("_p") and name not in ("rotate_p", "scale_p")
]
plans = st.builds(
    make_plan,
    patch=st.tuples(*[st.integers(2, 8)] * 3),
    mirror_axes=st.sets(st.integers(0, 2)).map(lambda axes: tuple(sorted(axes))),
    rotate_degrees=st.floats(0, 180),
    spacing_mm=st.tuples(*[st.floats(0.5, 4)] * 3),
)
centres = st.tuples(*[st.integers(0, n - 1) for n in SHAPE])
seeds = st.integers(0, 2**31)


def coordinates(shape=SHAPE):
    """Return an image whose three channels are i + 1, j + 1, k + 1: linear interpolation is exact."""
    return np.indices(shape).astype(np.float32) + 1


def number(index):
    """Return a label from 1 to 255 that tells a voxel from its neighbours."""
    i, j, k = np.asarray(index, int)
    return ((7 * i + 5 * j + 3 * k) % 255 + 1).astype(np.uint8)


def draw(seed, plan, centre=(6, 5, 4), augment=EVERYTHING):
    return draw_spatial(np.random.default_rng(seed), centre, plan, augment)


def sampled(drawn, patch):
    """Return where in the case each patch voxel is taken from, (3, N)."""
    offsets = np.indices(patch).reshape(3, -1).T - (np.array(patch) - 1) / 2
    return (offsets @ drawn.matrix.T + drawn.centre).T


def is_inside(where):
    return ((where >= 0) & (where <= np.array(SHAPE)[:, None] - 1)).all(axis=0)


# --- the draw ----------------------------------------------------------------------------------


@given(plans, centres, seeds)
def test_a_draw_can_be_replayed(plan, centre, seed):
    first, again = draw(seed, plan, centre), draw(seed, plan, centre)
    assert np.array_equal(first.matrix, again.matrix)
    assert np.array_equal(first.centre, again.centre)


@given(plans, centres, seeds)
def test_without_probabilities_nothing_but_flips_is_drawn(plan, centre, seed):
    drawn = draw(seed, plan, centre, NOTHING)
    assert drawn.is_plain
    flipped = {axis for axis in range(3) if drawn.matrix[axis, axis] < 0}
    assert flipped <= set(plan.mirror_axes)


@given(plans, seeds)
def test_a_rotation_is_a_rotation_in_millimetres(plan, seed):
    matrix = draw(seed, plan, augment=Augment(rotate_p=1, scale_p=0)).matrix
    spacing = np.array(plan.spacing_mm)
    in_mm = spacing[:, None] * matrix / spacing[None, :]
    assert np.allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-9)
    flips = [axis for axis in range(3) if axis in plan.mirror_axes]
    assert abs(np.linalg.det(in_mm)) == pytest.approx(1)
    assert flips or np.linalg.det(in_mm) > 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_rotation_turns_around_the_planned_axes_only(axis):
    plan = make_plan(rotate_axes=(axis,), rotate_degrees=180.0)
    matrix = draw(3, plan, augment=Augment(rotate_p=1, scale_p=0)).matrix
    along = np.eye(3)[axis]
    assert np.array_equal(matrix @ along, along)
    assert np.array_equal(matrix.T @ along, along)
    assert not np.allclose(matrix, np.eye(3))


def test_angles_stay_within_the_planned_degrees():
    plan = make_plan(rotate_axes=(2,), rotate_degrees=10.0, spacing_mm=(1.0, 1.0, 1.0))
    found = [draw(seed, plan, augment=Augment(rotate_p=1, scale_p=0)).matrix for seed in range(200)]
    degrees = [np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])) for matrix in found]
    assert max(np.abs(degrees)) <= 10
    assert min(degrees) < -8
    assert max(degrees) > 8


def test_a_zoom_above_one_makes_things_larger():
    plan = make_plan(spacing_mm=(1.0, 1.0, 1.0))
    matrix = draw(0, plan, augment=Augment(rotate_p=0, scale_p=1, scale_range=(2, 2))).matrix
    assert np.array_equal(matrix, np.eye(3) / 2)  # half a voxel of the case per voxel of the patch


def test_a_flat_patch_is_not_scaled_across():
    plan = make_plan(patch=(8, 8, 1))
    matrix = draw(0, plan, augment=Augment(rotate_p=0, scale_p=1, scale_range=(2, 2))).matrix
    assert np.allclose(np.diag(matrix), [0.5, 0.5, 1])


# --- applied -----------------------------------------------------------------------------------


@given(st.tuples(*[st.integers(1, 7)] * 3), st.data())
def test_an_empty_draw_cuts_exactly_the_box_around_its_centre(patch, data):
    half = np.array(patch) // 2
    centre = np.array(
        [data.draw(st.integers(h, n - e + h)) for h, n, e in zip(half, SHAPE, patch, strict=True)]
    )
    drawn = draw(0, make_plan(patch=patch), centre, NOTHING)
    image, label = apply_spatial(coordinates(), number(np.indices(SHAPE)), drawn, patch)
    box = tuple(slice(a, a + e) for a, e in zip(centre - half, patch, strict=True))
    assert np.array_equal(image, coordinates()[(slice(None), *box)])
    assert np.array_equal(label, number(np.indices(SHAPE))[box])


@given(plans, centres, seeds)
def test_a_flipped_patch_is_the_patch_flipped(plan, centre, seed):
    flipped, plain = (
        draw(seed, plan, centre, NOTHING),
        draw(seed, make_plan(patch=plan.patch), centre, NOTHING),
    )
    axes = tuple(axis for axis in range(3) if flipped.matrix[axis, axis] < 0)
    for source, offset in ((coordinates(), 1), (number(np.indices(SHAPE)), 0)):
        index = 0 if offset else 1
        cut = apply_spatial(coordinates(), number(np.indices(SHAPE)), plain, plan.patch)[index]
        turned = apply_spatial(coordinates(), number(np.indices(SHAPE)), flipped, plan.patch)[index]
        assert source.ndim == cut.ndim
        assert np.array_equal(turned, np.flip(cut, tuple(axis + offset for axis in axes)))


@given(plans, centres, seeds)
def test_the_image_is_sampled_where_the_draw_says(plan, centre, seed):
    drawn = draw(seed, plan, centre)
    image, _ = apply_spatial(coordinates(), np.zeros(SHAPE, np.uint8), drawn, plan.patch)
    wanted = sampled(drawn, plan.patch)
    inside = is_inside(wanted)
    assert np.allclose(image.reshape(3, -1)[:, inside] - 1, wanted[:, inside], atol=1e-3)


@given(plans, centres, seeds)
def test_image_and_label_are_sampled_on_one_grid(plan, centre, seed):
    drawn = draw(seed, plan, centre)
    image, label = apply_spatial(coordinates(), number(np.indices(SHAPE)), drawn, plan.patch)
    where = image.reshape(3, -1) - 1
    nearest = np.rint(where)
    # Not halfway between two voxels, and not at the rim, where the image fades into the outside.
    sure = (np.abs(where - nearest) < 0.49).all(axis=0) & is_inside(sampled(drawn, plan.patch))
    assert np.array_equal(label.ravel()[sure], number(nearest[:, sure]))


@given(plans, centres, seeds)
def test_a_checkerboard_stays_one_in_image_and_label(plan, centre, seed):
    board = np.indices(SHAPE).sum(axis=0) % 2
    board = np.pad(board[2:-2, 2:-2, 2:-2], 2, mode="edge")
    image, label = apply_spatial(
        board[None].astype(np.float32), board.astype(np.uint8), draw(seed, plan, centre), plan.patch
    )
    sure = np.abs(image[0] - 0.5) > 0.4375  # (3/4)^3 of the nearest voxel at least: the others have less
    assert np.array_equal(image[0][sure] > 0.5, label[sure] == 1)


@given(plans, centres, seeds, st.sets(st.integers(1, 255), min_size=1, max_size=4))
def test_no_label_is_invented(plan, centre, seed, values):
    label = np.random.default_rng(seed).choice([0, *values], SHAPE).astype(np.uint8)
    _, turned = apply_spatial(coordinates(), label, draw(seed, plan, centre), plan.patch)
    assert turned.dtype == np.uint8
    assert set(np.unique(turned)) <= {0, *values}


@given(plans, centres, seeds)
def test_what_lies_outside_the_case_is_zero(plan, centre, seed):
    drawn = draw(seed, plan, centre)
    ones = np.ones(SHAPE, np.uint8)
    image, label = apply_spatial(ones[None], ones, drawn, plan.patch)
    where = sampled(drawn, plan.patch)
    far = ((where < -1) | (where > np.array(SHAPE)[:, None])).any(axis=0)
    assert not image.ravel()[far].any()
    assert not label.ravel()[far].any()


def test_a_patch_larger_than_the_case_is_padded_on_both_sides():
    drawn = draw(0, make_plan(patch=(5, 5, 5)), (1, 1, 1), NOTHING)
    _, label = apply_spatial(np.ones((1, 3, 3, 3)), np.ones((3, 3, 3), np.uint8), drawn, (5, 5, 5))
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
    drawn = draw(5, plan, (20, 15, 7), Augment(rotate_p=1, scale_p=0))
    assert not np.allclose(drawn.matrix, np.eye(3), atol=0.3)
    _, turned = apply_spatial(ball[None], ball, drawn, shape)
    assert 2 * (turned & ball).sum() / (turned.sum() + ball.sum()) > 0.95


def test_a_picture_is_turned_in_its_plane():
    image = np.zeros((1, 9, 9, 1), np.float32)
    image[0, 4, 1:8] = 1  # a bar along j
    quarter = SpatialDraw(np.array([4.0, 4, 0]), np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    turned, label = apply_spatial(image, image[0].astype(np.uint8), quarter, (9, 9, 1))
    assert np.allclose(turned[0, :, 4, 0], [0, 1, 1, 1, 1, 1, 1, 1, 0], atol=1e-5)
    assert np.array_equal(label[..., 0].nonzero()[1], [4] * 7)


def test_a_patch_never_shares_memory_with_its_case():
    image, label = coordinates(), np.ones(SHAPE, np.uint8)
    patches = apply_spatial(image, label, draw(0, make_plan(patch=PATCH), augment=NOTHING), PATCH)
    assert not np.shares_memory(patches[0], image)
    assert not np.shares_memory(patches[1], label)


# --- intensities -------------------------------------------------------------------------------


def noise(shape=(2, *SHAPE)):
    return np.random.default_rng(0).normal(1, 2, shape).astype(np.float32)


def change(image, seed=0, **settings):
    return augment_intensity(np.random.default_rng(seed), image.copy(), NOTHING.model_copy(update=settings))


def test_without_probabilities_no_value_changes():
    assert np.array_equal(change(noise()), noise())


@pytest.mark.parametrize("name", INTENSITY)
def test_each_change_can_be_switched_on_alone_and_replayed(name):
    changed = change(noise(), **{name: 1.0})
    assert not np.array_equal(changed, noise())
    assert np.array_equal(changed, change(noise(), **{name: 1.0}))
    assert (changed.dtype, changed.shape) == (np.float32, noise().shape)


@pytest.mark.parametrize("name", INTENSITY)
@pytest.mark.parametrize("shape", [(1, 6, 5, 1), (1, 1, 1, 1)])
def test_flat_patches_stay_finite(name, shape):
    assert np.isfinite(change(noise(shape), **{name: 1.0})).all()


@pytest.mark.parametrize("name", INTENSITY)
def test_a_constant_patch_stays_finite(name):
    assert np.isfinite(change(np.full((1, 4, 4, 4), 3, np.float32), **{name: 1.0})).all()


def test_noise_has_the_drawn_variance():
    changed = change(np.zeros((1, 40, 40, 40), np.float32), noise_p=1.0, noise_variance=(0.09, 0.09))
    assert changed.std() == pytest.approx(0.3, rel=0.02)


def test_brightness_is_a_factor():
    assert np.allclose(change(noise(), brightness_p=1.0, brightness_range=(1.2, 1.2)), noise() * 1.2)


def test_contrast_keeps_the_mean_and_the_range_of_each_channel():
    image = np.stack([noise()[0], noise()[0] * 10])
    weaker = change(image, contrast_p=1.0, contrast_range=(0.5, 0.5))
    assert np.allclose(weaker.mean(axis=(1, 2, 3)), image.mean(axis=(1, 2, 3)), atol=1e-4)
    assert np.allclose(weaker.std(axis=(1, 2, 3)), image.std(axis=(1, 2, 3)) / 2, rtol=1e-4)
    stronger = change(image, contrast_p=1.0, contrast_range=(1.5, 1.5))
    assert stronger.max() <= image.max()
    assert stronger.min() >= image.min()


@pytest.mark.parametrize("name", ["gamma_p", "gamma_inverted_p"])
def test_gamma_keeps_mean_and_deviation(name):
    changed = change(noise(), **{name: 1.0}, gamma_range=(1.5, 1.5))
    assert np.allclose(changed.mean(axis=(1, 2, 3)), noise().mean(axis=(1, 2, 3)), atol=1e-4)
    assert np.allclose(changed.std(axis=(1, 2, 3)), noise().std(axis=(1, 2, 3)), rtol=1e-3)


def test_gamma_and_inverted_gamma_bend_to_opposite_sides():
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 4, 4, 4)
    bent = [
        change(image, **{name: 1.0}, gamma_range=(1.5, 1.5)).ravel()
        for name in ("gamma_p", "gamma_inverted_p")
    ]
    middle = [values[32] - (values[0] + values[-1]) / 2 for values in bent]
    assert middle[0] < 0 < middle[1]


def test_blur_keeps_the_mean_and_calms_the_noise():
    changed = change(noise(), blur_p=1.0, blur_sigma=(1.0, 1.0))
    assert changed.std() < noise().std() / 2
    assert changed.mean() == pytest.approx(noise().mean(), abs=0.05)


def test_channels_are_not_blurred_into_each_other():
    image = np.stack([np.zeros(SHAPE, np.float32), noise()[0]])
    assert not change(image, blur_p=1.0)[0].any()


def test_low_resolution_repeats_fewer_values():
    changed = change(noise(), low_resolution_p=1.0, low_resolution_zoom=(0.5, 0.5))
    assert changed.std() < noise().std()
    assert changed.shape == noise().shape
