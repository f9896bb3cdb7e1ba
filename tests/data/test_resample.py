"""Resampling against scikit-image, and on phantoms whose answer is known beforehand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.transform import resize

from medseg.core.errors import ConfigError, GeometryError
from medseg.data import resample
from medseg.data.resample import (
    argmax_resampled,
    choose_orders,
    resample_image,
    resample_labels,
    spline_matrix,
)

SHAPES = [
    pytest.param((9, 30, 17), (14, 41, 29), id="up"),
    pytest.param((40, 31, 18), (13, 20, 9), id="down"),
    pytest.param((9, 30, 17), (14, 11, 17), id="up, down and same"),
    pytest.param((1, 2, 50), (4, 5, 25), id="from one and two voxels"),
    pytest.param((12, 7, 5), (1, 2, 1), id="to one and two voxels"),
    pytest.param((70, 80, 1), (33, 91, 1), id="one slice"),
]
sizes = st.tuples(*[st.integers(1, 9)] * 3)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(300, 100, shape).astype(np.float32)


def reference(array, shape, order):
    return resize(
        array.astype(np.float64), shape, order=order, mode="edge", anti_aliasing=False, preserve_range=True
    )


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("shape_in", "shape_out"), SHAPES)
def test_image_equals_scikit_image(shape_in, shape_out, order):
    image = noise(shape_in)
    ours = resample_image(image[None], shape_out, orders=(order,) * 3)[0]
    np.testing.assert_allclose(ours, reference(image, shape_out, order), rtol=1e-5, atol=2e-3)


def test_channels_are_resampled_and_clipped_apart():
    image = np.stack([noise((6, 9, 7)), 1e-3 * noise((6, 9, 7), seed=1)])
    ours = resample_image(image, (11, 5, 9))
    np.testing.assert_allclose(ours[1], reference(image[1], (11, 5, 9), 3), rtol=1e-4)


def test_int16_gives_the_same_as_float():
    image = noise((30, 20, 10)).astype(np.int16)
    from_float = resample_image(image[None].astype(np.float32), (20, 30, 7))
    np.testing.assert_array_equal(resample_image(image[None], (20, 30, 7)), from_float)


def test_slabs_do_not_change_the_image(monkeypatch):
    image = noise((1, 50, 40, 30))
    whole = resample_image(image, (33, 45, 20))
    monkeypatch.setattr(resample, "SLAB_VOXELS", 1)
    np.testing.assert_allclose(resample_image(image, (33, 45, 20)), whole, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_slabs_that_no_new_voxel_looks_at_are_passed_over(monkeypatch, order):
    monkeypatch.setattr(resample, "SLAB_VOXELS", 1)
    image = noise((200, 3, 2))
    ours = resample_image(image[None], (2, 3, 2), orders=(order,) * 3)[0]
    np.testing.assert_allclose(ours, reference(image, (2, 3, 2), order), rtol=1e-5, atol=2e-3)


def test_a_volume_in_any_memory_layout_gives_the_same():
    image = noise((1, 17, 12, 9))
    np.testing.assert_array_equal(
        resample_image(np.asfortranarray(image), (9, 20, 11)), resample_image(image, (9, 20, 11))
    )


def test_input_is_left_untouched():
    image = noise((1, 6, 5, 4))
    before = image.copy()
    resample_image(image, (3, 7, 4))
    np.testing.assert_array_equal(image, before)


def test_same_shape_is_identity():
    image = noise((2, 6, 5, 4))
    np.testing.assert_array_equal(resample_image(image, (6, 5, 4)), image)


@given(sizes, sizes, st.sampled_from([0, 1, 3]))
@settings(max_examples=40, deadline=None)
def test_constant_stays_constant(shape_in, shape_out, order):
    image = np.full((1, *shape_in), -7.25, np.float32)
    assert (resample_image(image, shape_out, orders=(order,) * 3) == -7.25).all()


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 5), (2, 7), (50, 31), (31, 50), (200, 100)])
def test_weights_are_a_partition_of_unity(n_in, n_out, order):
    np.testing.assert_allclose(spline_matrix(n_in, n_out, order).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("order", [1, 3])
def test_linear_ramp_stays_linear_inside(order):
    ramp = np.arange(40, dtype=np.float32).reshape(1, 1, 40, 1)
    expected = (np.arange(100) + 0.5) * 0.4 - 0.5
    ours = resample_image(ramp, (1, 100, 1), orders=(order,) * 3)[0, 0, :, 0]
    np.testing.assert_allclose(ours[30:-30], expected[30:-30], atol=1e-3)


@given(sizes, sizes, st.sampled_from([1, 3]), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_flipping_before_or_after_is_the_same(shape_in, shape_out, order, axis):
    image = noise((1, *shape_in))
    orders = (order,) * 3
    flipped = resample_image(np.flip(image, axis), shape_out, orders=orders)
    np.testing.assert_allclose(
        np.flip(flipped, axis), resample_image(image, shape_out, orders=orders), rtol=1e-4
    )


def test_cubic_overshoot_is_clipped_to_the_range_of_the_input():
    step = np.repeat([0, 1], 10).astype(np.float32).reshape(1, 20, 1, 1)
    ours = resample_image(step, (57, 1, 1))
    assert (ours.min(), ours.max()) == (0, 1)


def test_across_an_axis_of_order_0_each_slice_is_resampled_and_clipped_alone():
    image = noise((12, 10, 4))
    in_plane = np.stack([reference(image[:, :, k], (7, 15), 3) for k in range(4)], axis=2)
    ours = resample_image(image[None], (7, 15, 8), orders=(3, 3, 0))[0]
    np.testing.assert_allclose(ours, in_plane.repeat(2, axis=2), rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize(
    ("spacing_mm", "target_mm", "orders"),
    [
        ((1, 1, 2), (1, 1, 1), (3, 3, 3)),
        ((1, 1, 3), (1, 1, 1), (3, 3, 3)),  # exactly three times is not yet anisotropic
        ((1, 1, 3.1), (1, 1, 1), (3, 3, 0)),
        ((5, 1, 1), (1, 1, 1), (0, 3, 3)),
        ((1, 1, 1), (1, 5, 1), (3, 0, 3)),  # the target decides where the scan is not anisotropic
        ((0.2, 1, 1), (1, 1, 1), (3, 3, 3)),  # two coarse axes
    ],
)
def test_only_a_single_axis_three_times_coarser_is_not_interpolated(spacing_mm, target_mm, orders):
    assert choose_orders(spacing_mm, target_mm) == orders


def test_labels_are_interpolated_linearly_in_plane():
    assert choose_orders((1, 1, 5), (1, 1, 5), order=1) == (1, 1, 0)


@given(
    arrays.arrays(
        np.int16, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([-3, 0, 1, 2, 700])
    ),
    sizes,
    st.sampled_from([(1, 1, 1), (1, 1, 0)]),
)
@settings(max_examples=60, deadline=None)
def test_no_label_is_invented(labels, shape_out, orders):
    ours = resample_labels(labels, shape_out, orders=orders)
    assert ours.dtype == np.int16
    assert set(np.unique(ours)) <= set(np.unique(labels))


@given(arrays.arrays(np.uint8, (4, 5, 3), elements=st.integers(0, 3)), sizes)
@settings(max_examples=40, deadline=None)
def test_labels_equal_the_argmax_of_one_hot_weights(labels, shape_out):
    one_hot = np.stack([labels == value for value in range(4)]).astype(np.float32)
    weights = resample_image(one_hot, shape_out, orders=(1, 1, 1))
    expected = np.argmax(weights > weights.max(axis=0) - 2e-5, axis=0)
    np.testing.assert_array_equal(resample_labels(labels, shape_out), expected)


def test_labels_do_not_depend_on_tiles(monkeypatch):
    labels = np.random.default_rng(0).integers(0, 4, (20, 13, 11)).astype(np.uint8)
    whole = resample_labels(labels, (31, 9, 17))
    monkeypatch.setattr(resample, "TILE", 5)
    np.testing.assert_array_equal(resample_labels(labels, (31, 9, 17)), whole)


def test_labels_of_the_same_shape_stay():
    labels = np.random.default_rng(0).integers(0, 5, (6, 5, 4)).astype(np.uint8)
    np.testing.assert_array_equal(resample_labels(labels, (6, 5, 4)), labels)


def test_a_single_nonzero_label_fills_the_new_grid():
    assert (resample_labels(np.full((2, 3, 4), 9, np.uint8), (5, 2, 3)) == 9).all()


def test_equal_label_weights_go_to_the_lower_value():
    labels = np.array([2, 1], np.uint8).reshape(2, 1, 1)
    assert resample_labels(labels, (1, 1, 1)).item() == 1


def test_labels_across_a_coarse_axis_are_copied():
    labels = np.random.default_rng(0).integers(0, 3, (5, 6, 4)).astype(np.uint8)
    np.testing.assert_array_equal(
        resample_labels(labels, (5, 6, 12), orders=(1, 1, 0)), labels.repeat(3, axis=2)
    )


def test_a_doubled_block_keeps_its_volume():
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[2:5, 3:7, 4:9] = 1
    assert (resample_labels(labels, (24, 9, 10)) == 1).sum() == 3 * 60


@pytest.mark.parametrize("orders", [(1, 1, 1), (1, 1, 0), (3, 3, 3)])
@pytest.mark.parametrize(("shape_in", "shape_out"), SHAPES)
def test_argmax_equals_resampling_all_scores_first(shape_in, shape_out, orders):
    scores = np.random.default_rng(1).normal(size=(5, *shape_in)).astype(np.float32)
    if orders == (3, 3, 3):  # so that overshoot, which images are clipped of, stays inside the range
        scores.reshape(5, -1)[:, :1] = 0
        full = np.stack([_unclipped(score, shape_out) for score in scores])
    else:
        full = resample_image(scores, shape_out, orders=orders)
    ours = argmax_resampled(scores, shape_out, orders=orders)
    assert ours.dtype == np.uint8
    lost = full.max(axis=0) - np.take_along_axis(full, ours[None].astype(np.intp), 0)[0]
    assert lost.max() < 1e-5


def _unclipped(score, shape_out):
    for axis in range(3):
        matrix = spline_matrix(score.shape[axis], shape_out[axis], 3)
        score = np.moveaxis(np.tensordot(matrix, score, (1, axis)), 0, axis)
    return score


def test_argmax_does_not_depend_on_slabs(monkeypatch):
    scores = noise((4, 20, 9, 7))
    whole = argmax_resampled(scores, (33, 12, 8))
    monkeypatch.setattr(resample, "SLAB_VOXELS", 1)
    np.testing.assert_array_equal(argmax_resampled(scores, (33, 12, 8)), whole)


def test_equal_scores_go_to_the_lower_class():
    assert (argmax_resampled(np.zeros((3, 2, 2, 2), np.float16), (3, 4, 5)) == 0).all()


def test_more_than_256_classes_need_uint16():
    scores = np.zeros((300, 1, 2, 1), np.float32)
    scores[299] = 1
    ours = argmax_resampled(scores, (1, 3, 1))
    assert (ours.dtype, set(ours.ravel())) == (np.uint16, {299})


def test_unknown_order_is_refused():
    with pytest.raises(ConfigError, match="order 2 is not 0, 1 or 3"):
        resample_image(noise((1, 3, 3, 3)), (4, 4, 4), orders=(2, 2, 2))


def test_empty_grid_is_refused():
    with pytest.raises(GeometryError, match="3 samples to 0"):
        resample_image(noise((1, 3, 3, 3)), (0, 4, 4))
