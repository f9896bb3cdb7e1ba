import pytest

from medseg.train.schedule import SCHEDULES, rate_at


def rates(total: int, schedule: str, warmup_share: float) -> list[float]:
    return [rate_at(step, total, schedule=schedule, warmup_share=warmup_share) for step in range(total)]


def test_cosine_goes_from_one_through_a_half_towards_zero():
    # 4 steps: progress 0, 1/4, 1/2, 3/4; half of 1 + cosine
    expected = [1, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2]
    assert rates(4, "cosine", 0) == pytest.approx(expected)


def test_poly_is_the_power_of_what_is_left():
    assert rates(4, "poly", 0) == pytest.approx([1, 0.75**0.9, 0.5**0.9, 0.25**0.9])


def test_warm_up_is_linear_and_reaches_one_before_the_curve_starts():
    assert rates(8, "poly", 0.5) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.75**0.9, 0.5**0.9, 0.25**0.9])


def test_a_share_that_rounds_to_no_step_means_no_warm_up():
    assert rates(9, "cosine", 0.05)[0] == 1


def test_a_run_of_warm_up_alone_ends_at_one():
    assert rates(3, "cosine", 1) == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_curve_falls_from_one_and_stays_above_zero(schedule: str):
    values = rates(50, schedule, 0)
    assert values[0] == 1 and values == sorted(values, reverse=True) and values[-1] > 0
