"""The way back: the output grid is the input grid, however the scan was stored, cropped or spaced."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume, to_canonical
from medseg.data.preprocess import Placement, preprocess_image
from medseg.data.resample import resample_image
from medseg.inference.restore import (
    restore_classes,
    restore_image,
    restore_probabilities,
    restore_region_probabilities,
    restore_regions,
)
from tests.builders import STORAGES, Storage, make_plan
from tests.builders import restore as store_as

SPACING_MM = (0.75, 1.5, 3.0)
SHAPE = (7, 6, 5)


def make_scan(storage: Storage = STORAGES[0]) -> Volume:
    """Noise on an oblique grid inside a rim of zeros, one voxel wide, which preprocessing crops."""
    array = np.zeros((1, *SHAPE), np.float32)
    array[0, 1:-1, 1:-1, 1:-1] = np.random.default_rng(0).uniform(1, 2, [n - 2 for n in SHAPE])
    affine = np.diag([*SPACING_MM, 1.0])
    cosine, sine = np.cos(0.3), np.sin(0.3)
    affine[:2, :2] = np.array([[cosine, -sine], [sine, cosine]]) @ affine[:2, :2]
    affine[:3, 3] = (10, -20, 30)
    return Volume(*store_as(array, Geometry(SHAPE, affine), storage))


def one_hot(classes: np.ndarray, n: int = 3) -> np.ndarray:
    return np.stack([(classes == value) for value in range(n)]).astype(np.float32) * 9


@pytest.mark.parametrize("storage", STORAGES)
def test_classes_come_back_to_their_voxels_in_every_storage_order(storage: Storage):
    scan = make_scan(storage)
    _, placement = preprocess_image(scan, make_plan(spacing_mm=SPACING_MM))
    # Classes by value: any mix-up of axes, flips or the crop would show.
    stored = np.where(scan.array[0] > 1.5, 2, (scan.array[0] > 1.2).astype(int))
    canonical, _ = to_canonical(stored, scan.geometry)
    box = tuple(slice(a, b) for a, b in zip(placement.start, placement.stop))
    restored = restore_classes(one_hot(canonical[box]), placement)
    assert restored.shape == scan.geometry.shape and np.array_equal(restored, stored)


@pytest.mark.parametrize("storage", STORAGES[::7])
def test_an_image_comes_back_to_its_voxels(storage: Storage):
    scan = make_scan(storage)
    image, placement = preprocess_image(scan, make_plan(spacing_mm=SPACING_MM))
    inside = scan.array[0] > 0
    restored = restore_image(image, placement)
    np.testing.assert_allclose(restored[0][inside], scan.array[0][inside], rtol=1e-3)
    assert (restored[0][~inside] == restored[0][inside].min()).all()


@pytest.mark.parametrize("target_mm", [(1.5, 1.5, 1.5), (0.5, 2.0, 3.0), (0.75, 0.75, 6.0)])
@pytest.mark.parametrize("storage", STORAGES[::11])
def test_a_resampled_grid_comes_back_to_the_scans(storage: Storage, target_mm: tuple[float, float, float]):
    scan = make_scan(storage)
    image, placement = preprocess_image(scan, make_plan(spacing_mm=target_mm))
    logits = np.random.default_rng(1).normal(size=(3, *image.shape[1:])).astype(np.float32)
    classes = restore_classes(logits, placement)
    assert classes.shape == scan.geometry.shape and classes.dtype == np.uint8
    assert restore_probabilities(logits, placement).shape == (3, *scan.geometry.shape)


def test_outside_the_kept_box_is_background():
    scan = make_scan()
    image, placement = preprocess_image(scan, make_plan(spacing_mm=SPACING_MM))
    logits = np.stack([np.zeros(image.shape[1:]), np.full(image.shape[1:], 5.0)]).astype(np.float32)
    outside = scan.array[0] == 0
    classes, probabilities = restore_classes(logits, placement), restore_probabilities(logits, placement)
    assert (classes[outside] == 0).all() and (classes[~outside] == 1).all()
    assert (probabilities[0][outside] == 1).all() and (probabilities[1][outside] == 0).all()


def make_placement(shape: tuple[int, ...], small: tuple[int, ...]) -> Placement:
    """A box that is the whole scan, resampled to another number of voxels."""
    geometry = Geometry.of_spacing(shape, (1.0, 1.0, 1.0))
    return Placement(geometry, geometry, (0, 0, 0), shape, geometry.resample(small))


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 9)] * 3),
    small=st.tuples(*[st.integers(2, 9)] * 3),
    n=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_it_equals_resampling_all_logits_and_taking_the_largest(shape, small, n: int, seed: int):
    logits = np.random.default_rng(seed).normal(size=(n, *small)).astype(np.float32)
    placement = make_placement(shape, small)
    resampled = resample_image(logits, shape, orders=placement.linear_orders)
    restored = restore_classes(logits, placement)
    chosen = np.take_along_axis(resampled, restored[None].astype(int), axis=0)[0]
    # Equal but for float32 rounding where two classes are level.
    np.testing.assert_allclose(chosen, resampled.max(axis=0), atol=1e-5)
    assert (restored == resampled.argmax(axis=0)).mean() > 0.99


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 9)] * 3),
    small=st.tuples(*[st.integers(2, 9)] * 3),
    seed=st.integers(0, 99),
)
def test_the_largest_probability_is_the_class_of_the_mask(shape, small, seed: int):
    logits = np.random.default_rng(seed).normal(size=(3, *small)).astype(np.float32) * 3
    placement = make_placement(shape, small)
    probabilities = restore_probabilities(logits, placement)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    mask = restore_classes(logits, placement)
    chosen = np.take_along_axis(probabilities, mask[None].astype(int), axis=0)[0]
    np.testing.assert_allclose(chosen, probabilities.max(axis=0), atol=1e-5)


def test_probabilities_are_the_softmax_of_the_logits():
    logits = np.log(np.array([1, 2, 7], np.float32)).reshape(3, 1, 1, 1).repeat(2, axis=1)
    probabilities = restore_probabilities(logits, make_placement((2, 1, 1), (2, 1, 1)))
    np.testing.assert_allclose(probabilities[:, 0, 0, 0], [0.1, 0.2, 0.7], rtol=1e-6)


def test_huge_logits_do_not_overflow():
    logits = np.array([1000.0, -1000.0], np.float32).reshape(2, 1, 1, 1)
    assert restore_probabilities(logits, make_placement((1, 1, 1), (1, 1, 1))).ravel().tolist() == [1, 0]


def test_the_logits_are_left_as_they_were():
    logits = np.ones((2, 2, 2, 2), np.float32)
    restore_probabilities(logits, make_placement((2, 2, 2), (2, 2, 2)))
    assert (logits == 1).all()


def test_a_tie_goes_to_the_lower_class():
    classes = restore_classes(np.zeros((3, 2, 2, 2), np.float32), make_placement((3, 3, 3), (2, 2, 2)))
    assert not classes.any()


def test_the_storage_orders_are_those_of_nibabel():
    """The 48 storage orders of these tests are all there are."""
    codes = {tuple(nib.aff2axcodes(make_scan(storage).geometry.affine)) for storage in STORAGES}
    assert len(codes) == 48


def test_regions_are_painted_in_order_where_they_are_more_likely_than_not():
    _, placement = preprocess_image(make_scan(), make_plan(spacing_mm=SPACING_MM))
    logits = np.full((2, *placement.box_shape), -1, np.float32)
    logits[0, :3] = 0.01
    logits[1, 2:4] = 5
    logits[0, 0, 0, 0] = 0  # as likely as not
    box = restore_regions(logits, placement, [2, 1])[1:-1, 1:-1, 1:-1]
    assert [np.unique(plane).tolist() for plane in box[1:]] == [[2], [1], [1], [0]]
    assert box[0, 0, 0] == 0 and box[0, 0, 1] == 2


def test_regions_on_another_grid_come_back_and_lie_inside_the_box():
    _, placement = preprocess_image(make_scan(), make_plan(spacing_mm=(1.5, 1.5, 3.0)))
    logits = np.full((1, *placement.grid.shape), 9, np.float32)
    painted = restore_regions(logits, placement, [1])
    assert painted.shape == SHAPE and painted.sum() == np.prod([n - 2 for n in SHAPE])


def test_region_probabilities_are_sigmoids_and_0_outside_the_box():
    _, placement = preprocess_image(make_scan(), make_plan(spacing_mm=SPACING_MM))
    logits = np.stack([np.full(placement.box_shape, value, np.float32) for value in (np.log(3), -200)])
    whole, core = restore_region_probabilities(logits, placement)
    assert np.allclose(whole[1:-1, 1:-1, 1:-1], 0.75) and whole[0].max() == 0
    assert core.max() == 0
