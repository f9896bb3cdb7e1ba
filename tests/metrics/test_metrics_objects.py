"""Lesions and objects that can be counted by hand, on voxels of 10 mm3."""

import numpy as np
import pytest

from medseg.core.errors import ConfigError
from medseg.metrics import Pair, evaluate_instances
from medseg.metrics.lesions import lesions
from medseg.metrics.panoptic import panoptic

SPACING_MM = (1.0, 2.0, 5.0)


@pytest.fixture
def pair():
    """Lesions A (8 voxels, of which 4 are found), B (1, missed), C (2, found whole); a false one of 3."""
    reference, predicted = np.zeros((2, 20, 6, 4), bool)
    reference[0:8, 0, 0] = predicted[0:4, 0, 0] = True
    reference[10, 4, 2] = True
    reference[14:16, 0, 0] = predicted[14:16, 0, 0] = True
    predicted[12:15, 5, 3] = True
    return Pair(reference, predicted, SPACING_MM)


def test_lesions_are_counted(pair):
    found = lesions(pair)
    assert found["lesion_sensitivity"] == pytest.approx(2 / 3)
    assert found["lesion_precision"] == pytest.approx(2 / 3)
    assert found["lesion_false_positives"] == 1
    assert found["lesion_f1"] == pytest.approx(4 / (4 + 1 + 1))


def test_lesion_dice_is_zero_for_missed_and_false_ones(pair):
    assert lesions(pair)["lesion_dice"] == pytest.approx((2 * 4 / 12 + 0 + 1 + 0) / 4)


def test_a_lesion_must_be_covered_as_far_as_asked(pair):
    assert lesions(pair, min_overlap=0.5)["lesion_sensitivity"] == pytest.approx(2 / 3)
    assert lesions(pair, min_overlap=0.51)["lesion_sensitivity"] == pytest.approx(1 / 3)


def test_small_lesions_are_left_out_by_volume(pair):
    assert lesions(pair, min_volume_mm3=20)["lesion_sensitivity"] == 1  # a volume of exactly it stays
    assert lesions(pair, min_volume_mm3=31)["lesion_false_positives"] == 0


def test_one_prediction_over_two_lesions_detects_both():
    reference, predicted = np.zeros((2, 9, 3, 3), bool)
    reference[[1, 2, 6, 7], 1, 1] = True
    predicted[1:8, 1, 1] = True
    found = lesions(Pair(reference, predicted, SPACING_MM))
    assert (found["lesion_f1"], found["lesion_false_positives"]) == (1, 0)
    assert found["lesion_dice"] == pytest.approx(2 * 2 / (2 + 7))


@pytest.mark.parametrize(("connectivity", "count"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity_says_what_touches(connectivity, count):
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 0] = mask[2, 2, 1] = True
    found = lesions(Pair(np.zeros_like(mask), mask, SPACING_MM), connectivity=connectivity)
    assert found["lesion_false_positives"] == count


def test_panoptic_quality_is_the_product_of_both(pair):
    found = panoptic(pair)  # C matches with IoU 1; A has 0.5, which is not above it
    assert (found["sq"], found["rq"]) == (1, pytest.approx(2 / 6))
    assert found["pq"] == pytest.approx(found["sq"] * found["rq"])


def test_instances_that_touch_are_told_apart():
    reference = np.zeros((8, 4, 1), np.uint16)
    reference[0:4], reference[4:8] = 300, 7
    predicted = np.where(reference == 300, 5, 9).astype(np.uint16)
    merged = np.ones_like(predicted)
    good, bad = (
        evaluate_instances(reference, found, SPACING_MM, {"panoptic": panoptic}).labels[1].values
        for found in (predicted, merged)
    )
    assert (good["pq"], bad["pq"]) == (1, 0)  # IoU of the merged one is 0.5 with each


def test_ignored_instances_count_in_neither_map():
    reference = np.zeros((6, 4, 1), np.uint16)
    reference[0:2], reference[4:6] = 3, 99
    predicted = np.zeros_like(reference)
    predicted[0:2], predicted[4:6] = 1, 2
    case = evaluate_instances(reference, predicted, SPACING_MM, {"panoptic": panoptic}, ignore_label=99)
    assert (case.labels[1].values["pq"], case.pixel_accuracy, case.miou) == (1, 1, 1)


def test_impossible_options_are_refused(pair):
    for options, code in (
        ({"connectivity": 8}, "CONNECTIVITY_INVALID"),
        ({"min_overlap": 2}, "OVERLAP_INVALID"),
    ):
        with pytest.raises(ConfigError) as caught:
            lesions(pair, **options)
        assert caught.value.code == code
