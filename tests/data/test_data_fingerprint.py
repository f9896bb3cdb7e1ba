import json

import pytest

from medseg.core.files import to_json
from medseg.data.fingerprint import take_fingerprint
from tests.builders import make_record

RECORDS = [
    make_record("a", shape=(10, 20, 5), spacing_mm=(1.0, 1.0, 4.0), voxels=(80, 15, 5)),
    make_record("b", shape=(30, 20, 7), spacing_mm=(2.0, 1.0, 6.0), voxels=(70, 30, 0)),
    make_record("c", shape=(20, 26, 9), spacing_mm=(1.5, 1.0, 5.0), voxels=(90, 5, 5)),
]


def test_shape_and_spacing_are_medians():
    found = take_fingerprint(RECORDS)
    assert (found.n_cases, found.shape, found.spacing_mm) == (3, (20, 20, 7), (1.5, 1.0, 5.0))


def test_the_fine_spacing_is_the_tenth_percentile():
    assert take_fingerprint(RECORDS).fine_spacing_mm == (1.1, 1.0, 4.2)


def test_classes_are_counted_over_all_voxels():
    assert take_fingerprint(RECORDS).class_share == (0.8, pytest.approx(50 / 300), pytest.approx(10 / 300))


def test_intensities_are_pooled_channel_by_channel():
    first = make_record("a", intensities=((0.0, 2.0), (5.0,)))
    second = make_record("b", intensities=((4.0,), (7.0,)))
    one, two = take_fingerprint([first, second]).intensities
    assert (one.mean, one.std) == (2, pytest.approx((8 / 3) ** 0.5))
    assert (two.mean, two.std) == (6, 1)


def test_percentiles_are_those_of_the_pooled_values():
    values = tuple(float(value) for value in range(10_001))
    (found,) = take_fingerprint([make_record("a", intensities=(values,))]).intensities
    assert (found.p00_5, found.p99_5, found.p99_95) == (50, 9950, 9995)


def test_tiny_values_keep_their_digits():
    (found,) = take_fingerprint([make_record("a", intensities=((1e-7, 3e-7),))]).intensities
    assert (found.mean, found.std) == (pytest.approx(2e-7), pytest.approx(1e-7))


def test_a_constant_foreground_is_not_divided_by_zero_later():
    assert take_fingerprint([make_record("a", intensities=((5.0, 5.0),))]).intensities[0].std == 1


def test_without_any_foreground_intensities_stay_as_they_are():
    found = take_fingerprint([make_record("a", intensities=((),), voxels=(100, 0, 0))])
    assert (found.intensities[0].mean, found.intensities[0].std) == (0, 1)
    assert found.class_share == (1, 0, 0)


def test_a_fingerprint_can_be_stored_as_json():
    found = take_fingerprint(RECORDS)
    assert json.loads(to_json(found.to_json()))["shape"] == [20, 20, 7]


def test_the_order_of_cases_does_not_matter():
    assert take_fingerprint(RECORDS) == take_fingerprint(RECORDS[::-1])
