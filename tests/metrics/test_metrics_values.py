"""Each metric on phantoms that can be counted by hand."""

import numpy as np
import pytest

from medseg.core.errors import ConfigError
from medseg.metrics import Pair
from medseg.metrics.overlap import dice, iou, precision, recall, volume
from medseg.metrics.surface import hd95, nsd

SPACING_MM = (1.0, 2.0, 5.0)


@pytest.fixture
def overlapping():
    """tp 18, fp 18, fn 9 on voxels of 10 mm3."""
    reference, predicted = np.zeros((2, 9, 8, 7), dtype=bool)
    reference[1:4, 1:4, 1:4] = True
    predicted[2:6, 1:4, 1:4] = True
    return Pair(reference, predicted, SPACING_MM)


def line_pair(reference_stop, predicted_stop, axis=0):
    """Two lines of voxels that start at the same one and run along `axis`."""
    masks = np.zeros((2, 24, 3, 3), dtype=bool)
    masks[0, 1:reference_stop, 1, 1] = masks[1, 1:predicted_stop, 1, 1] = True
    reference, predicted = np.moveaxis(masks, 1, axis + 1)
    return Pair(reference, predicted, SPACING_MM)


def missed_pair():
    reference = np.zeros((5, 5, 5), dtype=bool)
    reference[1:3, 1, 1] = True
    return Pair(reference, np.zeros_like(reference), SPACING_MM)


def spurious_pair():
    pair = missed_pair()
    return Pair(pair.predicted, pair.reference, SPACING_MM)


def test_dice(overlapping):
    assert dice(overlapping) == {"dice": 36 / 63}


def test_iou(overlapping):
    assert iou(overlapping) == {"iou": 18 / 45}


def test_precision(overlapping):
    assert precision(overlapping) == {"precision": 18 / 36}


def test_recall(overlapping):
    assert recall(overlapping) == {"recall": 18 / 27}


def test_volume_is_in_ml_and_too_much_is_positive(overlapping):
    expected = {"volume_reference_ml": 0.27, "volume_predicted_ml": 0.36, "volume_error_ml": 0.09}
    assert volume(overlapping) == pytest.approx(expected)


def test_hd95_is_the_interpolated_percentile_of_the_worse_direction():
    # Back: 0 eleven times, then 1..10 mm; position 0.95 * 20 = 19 of the sorted 21 is 9 mm. There: 0.
    assert hd95(line_pair(12, 22)) == {"hd95_mm": 9.0}


@pytest.mark.parametrize(("axis", "expected_mm"), [(0, 9.0), (1, 18.0), (2, 45.0)])
def test_hd95_scales_with_the_spacing_of_its_axis(axis, expected_mm):
    assert hd95(line_pair(12, 22, axis)) == {"hd95_mm": expected_mm}


def test_nsd_counts_boundary_voxels_of_both_masks():
    # 11 of the reference all lie on the prediction; of its 21, all but those at 4..10 mm are within 3 mm.
    assert nsd(line_pair(12, 22), tolerance_mm=3.0) == {"nsd": (11 + 14) / (11 + 21)}


def test_nsd_tolerance_is_1_mm_by_default():
    assert nsd(line_pair(12, 22)) == {"nsd": (11 + 12) / (11 + 21)}


def test_nsd_accepts_a_distance_of_exactly_the_tolerance():
    masks = np.zeros((2, 9, 3, 3), dtype=bool)
    masks[0, 1, 1, 1] = masks[1, 4, 1, 1] = True
    assert nsd(Pair(*masks, (0.1, 1, 1)), tolerance_mm=0.3) == {"nsd": 1.0}  # 0.4 - 0.1 > 0.3 in binary


def test_nsd_depends_on_the_spacing():
    near, far = (nsd(line_pair(12, 13, axis), tolerance_mm=1.5)["nsd"] for axis in (0, 1))
    assert (near, far) == (1.0, 22 / 23)


@pytest.mark.parametrize("tolerance_mm", [-1.0, np.nan, np.inf])
def test_nsd_refuses_a_tolerance_that_is_no_distance(tolerance_mm):
    with pytest.raises(ConfigError, match="tolerance_mm"):
        nsd(missed_pair(), tolerance_mm=tolerance_mm)


@pytest.mark.parametrize("pair", [missed_pair(), spurious_pair()], ids=["missed", "spurious"])
@pytest.mark.parametrize(("metric", "expected"), [(dice, 0), (iou, 0), (nsd, 0), (hd95, None)])
def test_one_empty_mask_scores_zero_and_has_no_distance(metric, expected, pair):
    assert list(metric(pair).values()) == [expected]


def test_empty_prediction_has_no_precision():
    assert (precision(missed_pair()), recall(missed_pair())) == ({"precision": None}, {"recall": 0})


def test_empty_reference_has_no_recall():
    assert (precision(spurious_pair()), recall(spurious_pair())) == ({"precision": 0}, {"recall": None})


@pytest.mark.parametrize("metric", [dice, iou, precision, recall, nsd, hd95])
def test_two_empty_masks_are_undefined(metric):
    empty = np.zeros((3, 4, 5), dtype=bool)
    assert list(metric(Pair(empty, empty, SPACING_MM)).values()) == [None]
