"""Paired differences whose mean and interval can be known beforehand."""

import numpy as np
import pytest

from medseg.metrics.paired import MIN_GROUPS, bootstrap_mean, expand_levels


def one_each(values):
    return bootstrap_mean(values, range(len(values)), seed=0)


def test_a_constant_gain_is_known_exactly():
    found = one_each([0.25] * 8)
    assert (found.mean, found.low, found.high, found.is_above_zero) == (0.25, 0.25, 0.25, True)


def test_no_difference_at_all_is_no_gain():
    found = one_each([0.0] * 8)
    assert (found.low, found.high, found.is_above_zero) == (0, 0, False)


def test_a_gain_in_one_case_of_many_is_not_shown():
    assert not one_each([0.3] + [0.0] * 19).is_above_zero


def test_the_interval_of_normal_values_is_the_t_interval():
    values = np.random.default_rng(5).normal(0.02, 0.01, 12)
    found = one_each(values)
    half = 2.201 * values.std(ddof=1) / np.sqrt(12)  # t of 11 degrees of freedom
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_levels_of_many_patients_are_those_of_the_plain_percentile_interval():
    assert expand_levels(10**6) == pytest.approx((0.025, 0.975), abs=1e-5)


def test_levels_of_few_patients_lie_further_out():
    # t of 9 degrees of freedom is 2.262; 2.262 * sqrt(10 / 9) = 2.385; Phi(-2.385) = 0.0085
    assert expand_levels(10)[0] == pytest.approx(0.0085, abs=1e-4)


def test_copies_of_a_case_do_not_make_the_interval_narrower():
    values = np.random.default_rng(2).normal(0, 1, 9)
    once = one_each(values)
    copied = bootstrap_mean(np.tile(values, 4), list(range(9)) * 4, seed=0)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert (copied.n_cases, copied.n_patients) == (36, 9)


def test_the_mean_is_over_cases_where_patients_have_several():
    patients = ["a", "a", "a", *"bcdef"]
    assert bootstrap_mean([1, 1, 1, 0, 0, 0, 0, 0], patients, seed=0).mean == 3 / 8


@pytest.mark.parametrize(("n", "is_known"), [(MIN_GROUPS - 1, False), (MIN_GROUPS, True)])
def test_too_few_patients_have_no_interval_and_show_no_gain(n, is_known):
    found = one_each([0.5] * n)
    assert (found.low is not None, found.is_above_zero) == (is_known, is_known)


def test_the_same_seed_gives_the_same_interval_and_another_another():
    values = np.random.default_rng(2).normal(0, 1, 20)
    first, again, other = (bootstrap_mean(values, range(20), seed=seed) for seed in (3, 3, 4))
    assert first == again and first.low != other.low


def test_drawing_in_pieces_draws_the_same(monkeypatch):
    values = np.random.default_rng(2).normal(0, 1, 20)
    whole = one_each(values)
    monkeypatch.setattr("medseg.metrics.paired.DRAWN", 20 * 999)
    assert one_each(values) == whole


def test_numbers_are_rounded_and_undefined_is_null():
    assert one_each([1 / 3]).to_json() == {
        "mean": 0.333333,
        "low": None,
        "high": None,
        "n_cases": 1,
        "n_patients": 1,
    }
