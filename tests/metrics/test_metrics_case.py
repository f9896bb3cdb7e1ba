"""Labels of one case."""

from functools import partial

import numpy as np
import pytest

from medseg.core.errors import DataError, GeometryError
from medseg.metrics import METRICS, Pair, evaluate_case
from medseg.metrics.surface import nsd

SPACING_MM = (1.0, 2.0, 5.0)
NAMES = {1: "liver", 2: "spleen", 4: "kidney", 7: "gall bladder"}


@pytest.fixture
def maps():
    """(6, 5, 4): label 1 in both, 2 missed, 4 spurious, 7 in neither; 3 is a value nobody asked for."""
    reference, predicted = np.zeros((2, 6, 5, 4), dtype=np.uint8)
    reference[0:2, 0:2, 0:2] = 1
    predicted[0:2, 0:2, 0:3] = 1
    reference[4:6, 0, 0] = 2
    predicted[4, 4, 0:3] = 4
    reference[5, 3, 3] = 3
    return reference, predicted


def evaluate(maps, **metrics):
    return evaluate_case(*maps, SPACING_MM, NAMES, metrics or METRICS)


def test_each_label_has_a_state(maps):
    states = {value: label.state for value, label in evaluate(maps).labels.items()}
    assert states == {1: "present", 2: "missed", 4: "spurious", 7: "both_empty"}


def test_values_equal_the_metrics_of_the_whole_masks(maps):
    case = evaluate(maps)
    for value in NAMES:
        pair = Pair(maps[0] == value, maps[1] == value, SPACING_MM)
        expected = {key: number for metric in METRICS.values() for key, number in metric(pair).items()}
        assert case.labels[value].values == expected


def test_miou_is_over_labels_that_are_there(maps):
    assert evaluate(maps).miou == pytest.approx((8 / 12 + 0 + 0) / 3)


def test_miou_of_an_empty_case_is_undefined():
    empty = np.zeros((3, 3, 3), dtype=np.uint8)
    assert evaluate((empty, empty)).miou is None


def test_pixel_accuracy_takes_other_values_as_background(maps):
    assert evaluate(maps).pixel_accuracy == pytest.approx(1 - (4 + 2 + 3) / 120)


def test_pixel_accuracy_counts_a_confused_label(maps):
    maps[1][4:6, 0, 0] = 1
    assert evaluate(maps).pixel_accuracy == pytest.approx(1 - (4 + 2 + 3) / 120)


def test_pixel_accuracy_of_two_empty_maps_is_one():
    empty = np.zeros((3, 3, 3), dtype=np.uint8)
    assert evaluate((empty, empty)).pixel_accuracy == 1


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64])
def test_integer_type_does_not_matter(maps, dtype):
    assert evaluate([a.astype(dtype) for a in maps]) == evaluate(maps)


def test_memory_order_does_not_matter(maps):
    assert evaluate([np.asfortranarray(a) for a in maps]) == evaluate(maps)


def test_options_are_kept(maps):
    case = evaluate(maps, nsd=partial(nsd, tolerance_mm=2.0))
    assert case.options == {"nsd": {"tolerance_mm": 2.0}}


def test_not_a_number_from_a_foreign_metric_becomes_none(maps):
    assert evaluate(maps, foreign=lambda pair: {"x": float("nan")}).labels[1].values == {"x": None}


def test_2d_image_is_evaluated_in_plane():
    reference, predicted = np.zeros((2, 12, 12, 1), dtype=np.uint8)
    reference[2:9, 2:9] = 1
    predicted[2:9, 2:9] = 1
    predicted[5, 5] = 0  # a hole: 4 new boundary pixels, further than 1 mm from the outline
    values = evaluate_case(reference, predicted, SPACING_MM, {1: "cell"}, METRICS).labels[1].values
    assert values["nsd"] == (24 + 24) / (24 + 24 + 4)


def test_other_grid_is_refused(maps):
    with pytest.raises(GeometryError) as caught:
        evaluate((maps[0], maps[1][:-1]))
    assert caught.value.code == "GRID_MISMATCH"


def test_probabilities_in_place_of_labels_are_refused(maps):
    with pytest.raises(DataError, match="float64"):
        evaluate((maps[0], maps[1].astype(float)))


def test_background_is_no_label(maps):
    with pytest.raises(DataError, match="not 0"):
        evaluate_case(*maps, SPACING_MM, {0: "background"}, METRICS)


def test_ignored_voxels_count_in_neither_mask(maps):
    ignored = maps[0].copy()
    ignored[:, :, 2:] = 9  # with one plane of predicted 1, and two voxels of 4
    case = evaluate_case(ignored, maps[1], SPACING_MM, NAMES, METRICS, ignore_label=9)
    cut = evaluate((maps[0][:, :, :2], maps[1][:, :, :2]))
    assert case.labels[1].values["dice"] == 1
    assert case.labels[4].values["volume_predicted_ml"] == cut.labels[4].values["volume_predicted_ml"] == 0.02
    assert case.pixel_accuracy == cut.pixel_accuracy


def test_accuracy_of_an_ignored_case_is_undefined():
    nothing = np.full((3, 3, 3), 9, dtype=np.uint8)
    assert evaluate_case(nothing, nothing, SPACING_MM, NAMES, METRICS, ignore_label=9).pixel_accuracy is None


def test_region_is_the_union_of_its_labels(maps):
    maps[1][4:6, 0, 0] = 1  # label 2 found, but called 1
    case = evaluate_case(*maps, SPACING_MM, NAMES, METRICS, regions={"organs": (1, 2), "gall": (7,)})
    assert case.regions["organs"].values["dice"] == pytest.approx(2 * 10 / (10 + 14))
    assert (case.regions["gall"].name, case.regions["gall"].state) == ("gall", "both_empty")


def test_labels_that_nobody_listed_are_found(maps):
    case = evaluate_case(*maps, SPACING_MM, None, METRICS)
    assert {value: label.name for value, label in case.labels.items()} == {1: "1", 2: "2", 3: "3", 4: "4"}


def test_the_ignore_label_is_none_of_them(maps):
    case = evaluate_case(*maps, SPACING_MM, None, METRICS, ignore_label=3)
    assert list(case.labels) == [1, 2, 4]


def test_confusion_counts_every_pair_of_labels(maps):
    confusion = evaluate(maps).confusion
    assert (confusion[1, 1], confusion[0, 1], confusion[2, 0], confusion[0, 4]) == (8, 4, 2, 3)
    assert sum(confusion.values()) == 120


def test_very_many_values_are_counted_alike(maps):
    far = [np.where(array == 4, np.uint16(60_000), array) for array in maps]
    case = evaluate_case(*far, SPACING_MM, {1: "a", 60_000: "b"}, METRICS)
    near = evaluate_case(*maps, SPACING_MM, {1: "a", 4: "b"}, METRICS)
    assert (case.labels[1], case.labels[60_000]) == (near.labels[1], near.labels[4])
    assert case.pixel_accuracy == near.pixel_accuracy


def test_counting_in_slabs_counts_the_same(maps, monkeypatch):
    whole = evaluate(maps)
    monkeypatch.setattr("medseg.metrics.counts.SLAB", 7)
    assert evaluate(maps) == whole


def test_negative_labels_are_refused(maps):
    with pytest.raises(DataError) as caught:
        evaluate((maps[0].astype(np.int8) - 1, maps[1]))
    assert caught.value.code == "LABEL_INVALID"
