"""What every step must do: an entry of POSTPROCESS is tested here without another line."""

import inspect
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.core.geometry import Geometry
from medseg.postprocess import POSTPROCESS

SPACING_MM = (0.5, 1.25, 3.0)
SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 5))
REQUIRED = {"min_volume_mm3": 4.0, "inside": [1], "touching": [1]}  # with effects on voxels of 1.875 mm3
MAPS = SHAPES.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 3])))


def with_required_options(step):
    """Give each option without a default a value."""
    required = [
        p.name
        for p in inspect.signature(step).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    ]
    return partial(step, **{name: REQUIRED[name] for name in required})


def grid(labels_IJK, spacing_mm=SPACING_MM):
    return Geometry.of_spacing(labels_IJK.shape, spacing_mm)


every_step = pytest.mark.parametrize(
    "step", [with_required_options(step) for step in POSTPROCESS.values()], ids=list(POSTPROCESS)
)
many = settings(deadline=None, max_examples=60)


@every_step
@many
@given(labels_IJK=MAPS)
def test_no_label_is_invented(step, labels_IJK):
    assert set(np.unique(step(labels_IJK, grid(labels_IJK)))) <= {0, *np.unique(labels_IJK)}


@every_step
@many
@given(labels_IJK=MAPS)
def test_result_is_a_new_array_and_the_input_stays(step, labels_IJK):
    before = labels_IJK.copy()
    result = step(labels_IJK, grid(labels_IJK))
    assert not np.shares_memory(result, labels_IJK)
    assert np.array_equal(labels_IJK, before)


@every_step
@many
@given(labels_IJK=MAPS, axis=st.integers(0, 2))
def test_flipped_map_gives_the_flipped_result(step, labels_IJK, axis):
    expected = np.flip(step(labels_IJK, grid(labels_IJK)), axis)
    assert np.array_equal(step(np.flip(labels_IJK, axis), grid(labels_IJK)), expected)


@every_step
@many
@given(labels_IJK=MAPS, order=st.permutations(range(3)))
def test_permuted_map_gives_the_permuted_result(step, labels_IJK, order):
    expected = step(labels_IJK, grid(labels_IJK)).transpose(order)
    moved = labels_IJK.transpose(order)
    assert np.array_equal(step(moved, grid(moved, [SPACING_MM[old] for old in order])), expected)


@every_step
@many
@given(labels_IJK=MAPS)
def test_second_time_changes_nothing(step, labels_IJK):
    once = step(labels_IJK, grid(labels_IJK))
    assert np.array_equal(step(once, grid(once)), once)


@every_step
@many
@given(labels_IJK=MAPS)
def test_other_labels_stay_where_they_are(step, labels_IJK):
    result = step(labels_IJK, grid(labels_IJK), labels=[3])
    assert np.array_equal(result == 1, labels_IJK == 1)


@every_step
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_type_and_shape_are_kept(step, dtype):
    labels_IJK = np.random.default_rng(0).choice([0, 1, 120], (6, 5, 4)).astype(dtype)
    result = step(labels_IJK, grid(labels_IJK))
    assert (result.dtype, result.shape) == (dtype, labels_IJK.shape)


@every_step
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 1), (1, 1, 1)])
def test_empty_map_stays_empty(step, shape):
    empty = np.zeros(shape, dtype=np.uint8)
    assert not step(empty, grid(empty)).any()


@every_step
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 1), (1, 1, 1)])
def test_full_map_stays_full(step, shape):
    full = np.full(shape, 1, dtype=np.uint8)
    spacing_mm = (5, 5, 5)
    assert np.array_equal(step(full, grid(full, spacing_mm)), full)
