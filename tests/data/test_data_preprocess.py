from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume, from_canonical
from medseg.data.plan import Normalization
from medseg.data.preprocess import (
    normalize,
    preprocess_classes,
    preprocess_image,
    preprocessing_key,
    target_shape,
)
from tests.builders import SPACING_MM, STORAGES, geometries, make_box_case, make_plan, restore

ZSCORE = Normalization("zscore")
IMAGE = np.array([[[[-200.0, 0.0, 50.0, 500.0]]]], np.float32)


# --- intensities -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Normalization("none", shift=0.0, scale=1.0), [-200, 0, 50, 500]),
        (Normalization("fixed", 0.0, 100.0, 0.0, 100.0), [0, 0, 0.5, 1]),
        (Normalization("ct", -100.0, 300.0, 40.0, 20.0), [-7, -2, 0.5, 13]),
        (Normalization("pet", 0.0, 400.0, 0.0, 50.0), [0, 0, 1, 8]),
    ],
)
def test_each_kind_clips_shifts_and_scales(step, expected):
    assert normalize(IMAGE, [step]).ravel().tolist() == expected


def test_a_z_score_is_that_of_the_image_itself():
    # Mean 10, deviations -2, -1, 1, 2, variance 2.5.
    image = np.array([[[[8, 9, 11, 12]]]], np.int16)
    assert np.allclose(normalize(image, [ZSCORE]).ravel() * 2.5**0.5, [-2, -1, 1, 2])


@pytest.mark.parametrize("value", [0, 0.1, 1e4, -3.3e7])
def test_a_constant_channel_becomes_zero(value):
    assert not normalize(np.full((1, 3, 4, 5), value), [ZSCORE]).any()


def test_channels_are_normalised_one_by_one():
    image = np.stack([IMAGE[0], IMAGE[0] * 10])
    both = normalize(image, [ZSCORE, Normalization("none", shift=0.0, scale=1.0)])
    assert np.array_equal(both[1], image[1])
    assert abs(both[0].mean()) < 1e-6


def test_the_image_given_is_not_changed():
    image = IMAGE.copy()
    normalize(image, [Normalization("fixed", 0.0, 100.0, 0.0, 100.0)])
    assert np.array_equal(image, IMAGE)


# --- grid --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        (SPACING_MM, (9, 8, 7)),
        ((0.7501, 1.5, 3.0), (9, 8, 7)),  # closer than one in a thousand
        ((1.5, 1.5, 1.5), (4, 8, 14)),  # 4.5 voxels are rounded to even
        ((100, 100, 100), (1, 1, 1)),
    ],
)
def test_voxel_counts_at_a_new_spacing(spacing, shape):
    assert target_shape(Geometry.of_spacing((9, 8, 7), SPACING_MM), spacing) == shape


def test_a_picture_stays_one_voxel_deep():
    assert target_shape(Geometry.of_spacing((9, 8, 1), (1, 1, 5)), (0.5, 1, 1)) == (18, 8, 1)


def test_on_its_own_spacing_an_image_stays_as_it_is():
    image, label = make_box_case()
    array, placement = preprocess_image(image, make_plan())
    assert array.dtype == np.float16
    assert np.array_equal(array, image.array)
    assert np.array_equal(preprocess_classes(label.array, placement), label.array)


def test_zeros_around_are_cropped_and_remembered():
    image, label = make_box_case()
    image.array[:, :2] = image.array[:, :, -1:] = 0
    array, placement = preprocess_image(image, make_plan())
    assert (placement.start, placement.stop) == ((2, 0, 0), (9, 7, 7))
    assert placement.box_shape == array.shape[1:] == (7, 7, 7)
    assert np.array_equal(preprocess_classes(label.array, placement), label.array[2:, :7])


def test_a_cropped_array_lies_where_it_came_from():
    image, _ = make_box_case()
    image.array[:, :2] = image.array[:, :, -1:] = 0
    _, placement = preprocess_image(image, make_plan())
    assert np.allclose(placement.grid.to_world((0, 0, 0)), image.geometry.to_world((2, 0, 0)))
    assert placement.grid.spacing_mm == SPACING_MM


def test_image_and_label_get_one_shape_and_no_new_label():
    image, label = make_box_case()
    array, placement = preprocess_image(image, make_plan(spacing_mm=(1.0, 1.0, 1.0)))
    classes = preprocess_classes(label.array, placement)
    assert array.shape[1:] == classes.shape == placement.grid.shape == (7, 12, 21)
    assert set(np.unique(classes)) <= {0, 1, 2}


def test_a_box_keeps_its_place_and_volume_in_millimetres():
    shape = (16, 16, 8)
    label = np.zeros(shape, np.uint8)
    label[4:12, 4:12, 2:6] = 1
    geometry = Geometry.of_spacing(shape, (1, 1, 2))
    image = Volume(label[None].astype(np.float32) + 1, geometry)
    array, placement = preprocess_image(image, make_plan(spacing_mm=(0.5, 0.5, 1.0)))
    classes = preprocess_classes(label, placement)
    expected = np.zeros((32, 32, 16), np.uint8)
    expected[8:24, 8:24, 4:12] = 1
    # Only at the eight corners is the label outvoted: its weight there is 0.75^3.
    assert (classes != expected).sum() == 8
    for found in (classes, array[0] > 1.5):
        assert np.argwhere(found).mean(axis=0).tolist() == [15.5, 15.5, 7.5]


def test_across_coarse_slices_the_label_comes_from_the_slice_of_the_image():
    shape = (8, 8, 3)
    label = np.zeros(shape, np.uint8)
    label[2:6, 2:6, 1] = 1
    image = Volume(label[None].astype(np.float32) + 1, Geometry.of_spacing(shape, (1, 1, 5)))
    array, placement = preprocess_image(image, make_plan(spacing_mm=(1.0, 1.0, 1.0)))
    assert np.array_equal(preprocess_classes(label, placement), array[0] - 1)


def test_in_2d_no_slice_is_made_up_between_two_others():
    image, label = make_box_case()
    array, placement = preprocess_image(image, make_plan(dims=2, spacing_mm=(1.5, 1.5, 1.0)))
    assert array.shape == (1, 4, 8, 7)
    assert placement.grid.spacing_mm[2] == 3
    assert preprocess_classes(label.array, placement).shape == (4, 8, 7)


def test_values_beyond_float16_are_clipped_not_infinite():
    image, _ = make_box_case()
    big = Volume(image.array.astype(np.float32) * 1e6, image.geometry)
    assert np.isfinite(preprocess_image(big, make_plan())[0]).all()


@pytest.mark.parametrize("spacing", [SPACING_MM, (1.0, 1.3, 2.0)])
def test_all_48_storage_orders_give_one_result(spacing):
    image, label = make_box_case()
    image.array[:, :, :1] = 0
    plan = make_plan(spacing_mm=spacing, normalization=(ZSCORE,))
    results = set()
    for storage in STORAGES:
        stored, grid = restore(image.array, image.geometry, storage)
        array, placement = preprocess_image(Volume(stored, grid), plan)
        classes = preprocess_classes(restore(label.array, label.geometry, storage)[0], placement)
        results.add((array.tobytes(), classes.tobytes(), placement.start, placement.stop))
        assert placement.grid.differs_from(preprocess_image(image, plan)[1].grid, 1e-6) == ""
    assert len(results) == 1


@settings(max_examples=40)
@given(geometries(), st.data())
def test_the_placement_leads_back_to_every_voxel(grid, data):
    image = np.zeros((1, *grid.shape), np.int16)
    inside = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    image[(0, *inside)] = image[0, -1, 0, 0] = 7
    plan = make_plan(spacing_mm=tuple(np.array(grid.spacing_mm)[[axis for axis, _ in sorted_axes(grid)]]))
    array, placement = preprocess_image(Volume(image, grid), plan)
    whole = np.zeros(placement.canonical.shape, np.int16)
    whole[tuple(slice(a, b) for a, b in zip(placement.start, placement.stop, strict=True))] = array[0]
    assert np.array_equal(from_canonical(whole, placement.original), image[0])


def sorted_axes(grid):
    """Return (index axis, sign) in the order of the world axes."""
    return [(index, sign) for _, index, sign in sorted((w, i, s) for i, (w, s) in enumerate(grid.axes))]


# --- the key -----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"spacing_mm": (1.0, 1.0, 1.0)}, {"normalization": (ZSCORE,)}])
def test_the_key_follows_what_changes_the_result(change):
    plan = make_plan()
    assert preprocessing_key(plan, [0, 1]) != preprocessing_key(replace(plan, **change), [0, 1])


def test_the_key_follows_the_labels():
    assert preprocessing_key(make_plan(), [0, 1]) != preprocessing_key(make_plan(), [0, 2])


@pytest.mark.parametrize("change", [{"patch": (64, 64, 64)}, {"batch_size": 9}, {"reasons": {"a": "b"}}])
def test_the_key_ignores_what_does_not(change):
    plan = make_plan()
    assert preprocessing_key(plan, [0, 1]) == preprocessing_key(replace(plan, **change), [0, 1])
