"""Calibration, conformal intervals and outliers, on numbers that can be counted."""

import math

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.data.preprocess import Placement
from medseg.inference.trust.calibration import (
    fit_temperatures,
    measure_calibration,
)
from medseg.inference.trust.conformal import find_interval, find_p, find_quantile, weigh_patients
from medseg.inference.trust.image import describe_image, name_features
from medseg.inference.trust.outlier import (
    Outlier,
    fit_outlier,
    fit_space,
    shrink_covariance,
)
from medseg.inference.trust.quality import (
    Predictor,
    fit_line,
    fit_predictor,
    from_logit,
    to_logit,
)
from medseg.metrics.calibration import Bins

ONES = np.ones(9)
NINE = np.arange(1.0, 10.0)[::-1].copy()


def test_the_calibration_error_of_four_voxels():
    confidence = np.array([0.9, 0.9, 0.6, 0.6])
    is_right = np.array([True, False, True, True])
    # Two bins: |1 / 2 - 0.9| = 0.4 and |1 - 0.6| = 0.4, half of the voxels each.
    assert Bins.of(confidence, is_right).error == pytest.approx(0.4)


def test_errors_of_opposite_sign_cancel_within_a_bin_only():
    one_bin = Bins.of(np.array([0.5, 0.5]), np.array([True, False])).error
    two_bins = Bins.of(np.array([0.5, 0.6]), np.array([True, False])).error
    assert one_bin == 0 and two_bins == pytest.approx(0.55)


def test_no_decision_has_no_calibration_error():
    assert Bins.of(np.empty(0), np.empty(0, bool)).error is None


@pytest.mark.parametrize("known", [0.5, 1.0, 3.0])
def test_the_temperature_recovers_a_known_over_confidence(known: float):
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (4000, 3))
    p = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    drawn = (p.cumsum(1) < rng.random((4000, 1))).sum(1)
    truth = drawn[:, None] == np.arange(3)
    (found,) = fit_temperatures(honest * known, truth, is_regions=False)
    assert found == pytest.approx(known, rel=0.08)
    before, after = (
        Bins.of(*measure_calibration(honest * known, truth, t, is_regions=False)).error or 0.0
        for t in ((1.0,), (found,))
    )
    assert after < (before if known != 1 else 0.03)


def test_every_region_gets_its_own_temperature():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (4000, 2))
    truth = rng.random((4000, 2)) < 1 / (1 + np.exp(-honest))
    found = fit_temperatures(honest * [1.0, 4.0], truth, is_regions=True)
    assert found == pytest.approx((1, 4), rel=0.1)


def test_of_regions_no_is_a_decision_too():
    confidence, is_right = measure_calibration(
        np.array([[-40.0, 0.0]]), np.array([[True, False]]), (1.0, 1.0), is_regions=True
    )
    assert confidence.tolist() == [1, 0.5] and is_right.tolist() == [False, True]


def test_the_conformal_quantile_of_nine_scores_is_the_ninth():
    assert find_quantile(NINE, ONES, 0.9) == 9  # ceil(0.9 * 10)
    assert find_quantile(NINE, ONES, 0.8) == 8
    assert find_quantile(NINE, ONES, 0.5) == 5


def test_eight_scores_are_too_few_for_nine_tenths():
    assert find_quantile(NINE[1:], ONES[1:], 0.9) == math.inf


def test_two_cases_of_a_patient_are_one_witness():
    assert weigh_patients(["a", "b", "a"]).tolist() == [0.5, 1, 0.5]
    doubled = np.repeat(NINE, 2)
    assert find_quantile(doubled, np.full(18, 0.5), 0.9) == 9


def test_the_interval_pools_what_each_predictor_says():
    low, high = find_interval(np.full(9, 100.0), NINE, ONES, 0.9)
    assert (low, high) == (91, 109)


def test_the_p_value_counts_the_new_case_itself():
    assert find_p(10.0, NINE, ONES) == pytest.approx(1 / 10)
    assert find_p(7.0, NINE, ONES) == pytest.approx((1 + 3) / 10)
    assert find_p(0.0, NINE, ONES) == 1


def test_a_line_finds_a_line_and_ignores_what_does_not_vary():
    x = np.stack([np.linspace(-1, 1, 400), np.full(400, 7.0)], axis=1)
    line = fit_line(x, 3 * x[:, 0] + 2, np.ones(400))
    assert line.predict(np.array([[0.5, 7.0], [-0.5, 9.0]])).tolist() == pytest.approx([3.5, 0.5], abs=0.02)


def test_far_outside_its_cases_a_line_says_no_more():
    x = np.linspace(-1, 1, 400)[:, None]
    line = fit_line(x, x[:, 0], np.ones(400))
    assert line.predict(np.array([1e6])) == pytest.approx(float(line.predict(np.array([1e3]))))


def test_intervals_cover_nine_in_ten_exchangeable_cases():
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(40):
        x = rng.normal(0, 1, (60, 2))
        y = x[:, 0] + rng.standard_t(3, 60)
        predictor = fit_predictor(x[:50], y[:50], np.arange(50) % 5, np.ones(50))
        ends = [predictor.find_interval(row) for row in x[50:]]
        hits += [low <= value <= high for (low, high), value in zip(ends, y[50:], strict=True)]
    assert 0.84 <= np.mean(hits) <= 0.96


def test_a_predictor_comes_back_from_json_in_no_order_of_cases():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (20, 2)), rng.normal(0, 1, 20)
    predictor = fit_predictor(x, y, np.arange(20) % 2, np.ones(20))
    tree = predictor.to_json()
    again = Predictor.from_json(tree)
    assert tree["residuals"][:10] == sorted(tree["residuals"][:10])
    assert again.find_interval(x[0]) == pytest.approx(predictor.find_interval(x[0]), rel=1e-5)
    assert again.predict(x[0]) == pytest.approx(predictor.predict(x[0]), rel=1e-5)


def test_the_ends_of_the_logit_scale_are_none_and_all():
    assert (from_logit(to_logit(0.0)), from_logit(to_logit(1.0)), from_logit(math.inf)) == (0, 1, 1)
    assert from_logit(float(to_logit(0.8))) == pytest.approx(0.8)


def make_placement(shape: tuple[int, int, int]) -> Placement:
    whole = Geometry.of_spacing((shape[0] * 2, *shape[1:]), (1.0, 2.0, 4.0))
    grid = whole.crop((0, 0, 0), shape)
    return Placement(whole, whole, (0, 0, 0), shape, grid)


def describe(image: np.ndarray) -> dict[str, float]:
    found = describe_image(image[None].astype(np.float16), make_placement(image.shape))
    return dict(zip(name_features(["t1"]), found.tolist(), strict=True))


def test_an_image_is_described_in_words():
    told = describe(np.random.default_rng(0).normal(0, 1, (16, 12, 10)))
    assert told["voxel size along k"] == pytest.approx(math.log(4))
    assert told["field of view along i"] == pytest.approx(math.log(16))
    assert told["share of the scan that is not empty"] == 0.5
    assert told["noise along j"] == pytest.approx(0, abs=0.15)
    assert told["share of voxels at the lowest or highest value"] == pytest.approx(2 / 1920, abs=2e-3)


def test_a_ramp_has_no_noise_and_no_bright_middle():
    told = describe(np.broadcast_to(np.arange(16.0)[:, None, None], (16, 12, 10)))
    assert told["noise along i"] == pytest.approx(math.log(1e-3))
    assert told["intensity in the middle along i"] == pytest.approx(0)
    assert told["skewness of intensity"] == pytest.approx(0, abs=1e-6)


def test_an_axis_of_two_voxels_gets_the_noise_of_the_others():
    told = describe(np.random.default_rng(0).normal(0, 1, (12, 10, 2)))
    others = told["noise along i"] + told["noise along j"]
    assert told["noise along k"] == pytest.approx(others / 2)
    assert describe(np.ones((2, 2, 1)))["noise along k"] == 0


def test_of_a_large_image_planes_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medseg.inference.trust.image.VOXELS", 100)
    image = np.random.default_rng(0).normal(0, 1, (16, 5, 5))
    told = describe(image)
    assert told["noise along i"] == (told["noise along j"] + told["noise along k"]) / 2
    assert told["50 % quantile of intensity"] == pytest.approx(np.median(image[::4]), abs=1e-2)


def test_channels_are_told_apart():
    names = name_features(["ct", "pet"])
    assert names[-1].endswith("of pet") and len(names) == len(set(names))


def test_features_that_never_vary_are_measured_by_their_floor():
    space = fit_space(np.zeros((20, 2)))
    assert space.measure(np.zeros(2)) == 0
    assert space.standardize(np.array([0.1, 99.0])).tolist() == [2, 30]


def test_correlated_features_are_far_only_across():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 1, 300)
    space = fit_space(np.stack([common, common + rng.normal(0, 0.1, 300)], axis=1))
    assert space.measure(np.array([2.0, -2.0])) > 5 * space.measure(np.array([2.0, 2.0]))


def test_a_covariance_of_few_cases_is_shrunk_and_of_many_hardly():
    rng = np.random.default_rng(0)
    true = np.array([[1.0, 0.8], [0.8, 1.0]])
    root = np.linalg.cholesky(true)
    few, many = (shrink_covariance(rng.normal(0, 1, (n, 2)) @ root.T) for n in (6, 6000))
    assert np.allclose(many, true, atol=0.06) and np.linalg.cond(few) < 100


def test_cases_like_the_training_have_every_p_value_and_strange_ones_the_lowest():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (200, 3))
    outlier = fit_outlier(x, np.arange(200) % 5, np.ones(200), ["size", "noise", "tone"])
    p = np.array([outlier.judge(row)[1] for row in rng.normal(0, 1, (400, 3))])
    assert 0.02 <= (p <= 0.05).mean() <= 0.08
    _, lowest, unusual = outlier.judge(np.array([0.0, 9.0, -6.0]))
    assert lowest == pytest.approx(1 / 201) and list(unusual) == ["noise", "tone"]
    again = Outlier.from_json(outlier.to_json())
    assert again.judge(x[0])[0] == pytest.approx(outlier.judge(x[0])[0], rel=1e-5)
