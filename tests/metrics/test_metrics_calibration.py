"""Reliability bins that can be counted by hand."""

import numpy as np
import pytest

from medseg.core.errors import DataError
from medseg.metrics.calibration import Bins, measure_calibration


def two_classes(foreground):
    p = np.asarray(foreground, np.float32)[:, None, None]
    return np.stack([1 - p, p])


def test_the_error_is_the_gap_between_claim_and_truth():
    # Four decisions at 0.9 of which three are right, and one right one at 0.6.
    reference = np.array([1, 1, 1, 0, 1], np.uint8)[:, None, None]
    found = measure_calibration(reference, two_classes([0.9, 0.9, 0.9, 0.9, 0.6]), labels=[1])
    assert found.whole.error == pytest.approx((4 * abs(0.75 - 0.9) + abs(1 - 0.6)) / 5)


def test_foreground_leaves_out_what_is_background_in_both():
    reference = np.array([1, 0, 0], np.uint8)[:, None, None]
    found = measure_calibration(reference, two_classes([0.8, 0.1, 0.7]), labels=[1])
    assert (found.whole.n.sum(), found.foreground.n.sum()) == (3, 2)


def test_a_label_is_judged_against_the_rest():
    reference = np.array([1, 0], np.uint8)[:, None, None]
    found = measure_calibration(reference, two_classes([0.8, 0.2]), labels=[1])
    assert found.labels[1] == pytest.approx((0.2 + 0.2) / 2)


def test_labels_stand_for_the_channels_in_order():
    reference = np.array([7, 3], np.uint8)[:, None, None]
    p = np.array([[0, 0], [0, 1], [1, 0]], np.float32)[:, :, None, None]
    assert measure_calibration(reference, p, labels=[7, 3]).whole.error == 0


def test_a_map_of_foreground_alone_is_judged_as_with_its_background():
    reference = np.array([5, 0, 5], np.uint8)[:, None, None]
    both = two_classes([0.9, 0.2, 0.3])
    alone = measure_calibration(reference, both[1:], labels=[5])
    whole = measure_calibration(reference, both, labels=[5])
    assert alone.whole.error == pytest.approx(whole.whole.error)
    assert alone.labels == {5: pytest.approx(whole.labels[5])}


def test_regions_are_yes_or_no_questions():
    reference = np.array([1, 2, 0], np.uint8)[:, None, None]
    p = np.array([[0.9, 0.9, 0.2], [0.1, 0.6, 0.1]], np.float32)[:, :, None, None]
    found = measure_calibration(reference, p, labels=[1, 2], regions={"all": [1, 2], "core": [2]})
    assert found.whole.error == pytest.approx((4 * 0.1 + 0.2 + 0.4) / 6)
    assert found.regions["core"] == pytest.approx((0.1 + 0.4 + 0.1) / 3)
    assert found.foreground.n.sum() == 3


def test_ignored_voxels_are_not_asked():
    reference = np.array([1, 9], np.uint8)[:, None, None]
    found = measure_calibration(reference, two_classes([1.0, 1.0]), labels=[1], ignore_label=9)
    assert (found.whole.n.sum(), found.whole.error) == (1, 0)


@pytest.mark.parametrize("labels", [[1, 2], []])
def test_other_channels_than_labels_are_refused(labels):
    reference = np.zeros((2, 1, 1), np.uint8)
    with pytest.raises(DataError) as caught:
        measure_calibration(reference, two_classes([0.1, 0.2]), labels=labels)
    assert caught.value.code == "PROBABILITIES_DIFFER"


def test_bins_without_decisions_have_no_error_and_are_null():
    rows = Bins.none().to_json()
    assert Bins.none().error is None
    assert (len(rows), rows[0]["from"], rows[-1]["to"], rows[3]["accuracy"]) == (15, 0, 1, None)


def test_a_bin_tells_its_mean_claim_and_share_right():
    rows = Bins.of(np.array([0.5, 0.52]), np.array([True, False])).to_json()
    (row,) = [row for row in rows if row["n"]]
    assert (row["n"], row["confidence"], row["accuracy"]) == (2, pytest.approx(0.51), 0.5)
