"""What every metric must do: an entry of METRICS is tested here without another line."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.metrics import METRICS, Pair

SPACING_MM = (0.5, 1.25, 3.0)
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))


@st.composite
def mask_pairs(draw):
    shape = draw(SHAPES)
    return draw(arrays(bool, shape)), draw(arrays(bool, shape))


every_metric = pytest.mark.parametrize("metric", list(METRICS.values()), ids=list(METRICS))


@every_metric
@settings(deadline=None, max_examples=60)
@given(masks=mask_pairs())
def test_values_are_none_or_finite(metric, masks):
    for number in metric(Pair(*masks, SPACING_MM)).values():
        assert number is None or math.isfinite(number)


@every_metric
@settings(deadline=None, max_examples=40)
@given(masks=mask_pairs(), axis=st.integers(0, 2), order=st.permutations(range(3)))
def test_storage_order_changes_nothing(metric, masks, axis, order):
    moved = [np.flip(mask, axis).transpose(order) for mask in masks]
    spacing_mm = tuple(SPACING_MM[old] for old in order)
    assert metric(Pair(*moved, spacing_mm)) == pytest.approx(metric(Pair(*masks, SPACING_MM)))


@every_metric
@settings(deadline=None, max_examples=40)
@given(masks=mask_pairs(), before=st.integers(0, 3), after=st.integers(0, 3))
def test_empty_space_around_changes_nothing(metric, masks, before, after):
    padding = [(before, after) if size > 1 else (0, 0) for size in masks[0].shape]
    padded = [np.pad(mask, padding) for mask in masks]
    assert metric(Pair(*padded, SPACING_MM)) == metric(Pair(*masks, SPACING_MM))


@every_metric
def test_masks_are_not_changed(metric):
    rng = np.random.default_rng(0)
    masks = [rng.random((4, 5, 6)) < 0.5 for _ in range(2)]
    copies = [mask.copy() for mask in masks]
    metric(Pair(*masks, SPACING_MM))
    assert all(np.array_equal(mask, copy) for mask, copy in zip(masks, copies, strict=True))


SYMMETRIC = [
    "dice",
    "iou",
    "hd",
    "hd95",
    "assd",
    "nsd",
    "hd95_area",
    "boundary_f1",
    "boundary_iou",
    "panoptic",
]


@pytest.mark.parametrize("name", SYMMETRIC)
@settings(deadline=None, max_examples=40)
@given(masks=mask_pairs())
def test_reference_and_prediction_may_be_swapped(name, masks):
    swapped = METRICS[name](Pair(*masks[::-1], SPACING_MM))
    assert swapped == pytest.approx(METRICS[name](Pair(*masks, SPACING_MM)))


@settings(deadline=None, max_examples=40)
@given(masks=mask_pairs())
def test_order_of_distances_and_shares(masks):
    pair = Pair(*masks, SPACING_MM)
    found = {key: number for metric in METRICS.values() for key, number in metric(pair).items()}
    if pair.state != "present":
        return
    assert found["hd95_mm"] <= found["hd_mm"] and found["assd_mm"] <= found["hd_mm"]
    assert found["iou"] <= found["dice"]
    assert found["pq"] <= found["rq"] <= 1
    assert 0 <= found["lesion_dice"] <= 1


@settings(deadline=None, max_examples=40)
@given(masks=mask_pairs(), factor=st.sampled_from([0.5, 2.0, 3.0]))
def test_distances_scale_with_the_spacing(masks, factor):
    near = Pair(*masks, SPACING_MM)
    far = Pair(*masks, tuple(factor * mm for mm in SPACING_MM))
    for name in ("hd", "hd95", "assd", "hd95_area"):
        (value,), (scaled,) = METRICS[name](near).values(), METRICS[name](far).values()
        assert scaled == (None if value is None else pytest.approx(factor * value, abs=1e-5))


@settings(deadline=None, max_examples=40)
@given(masks=mask_pairs())
def test_precision_of_one_is_recall_of_the_other(masks):
    precision = METRICS["precision"](Pair(*masks, SPACING_MM))["precision"]
    assert precision == METRICS["recall"](Pair(*masks[::-1], SPACING_MM))["recall"]


@settings(deadline=None, max_examples=40)
@given(mask=SHAPES.flatmap(lambda shape: arrays(bool, shape)))
def test_mask_against_itself_is_perfect(mask):
    pair = Pair(mask, mask, SPACING_MM)
    found = {key: number for metric in METRICS.values() for key, number in metric(pair).items()}
    defined = mask.any()
    assert [found[key] for key in ("dice", "iou", "precision", "recall", "nsd")] == [
        1 if defined else None
    ] * 5
    for key in ("nsd_area", "boundary_f1", "boundary_iou", "lesion_f1", "lesion_dice", "pq"):
        assert found[key] == (pytest.approx(1) if defined else None), key
    assert found["hd95_mm"] == (0 if defined else None)
    assert found["volume_error_ml"] == 0
