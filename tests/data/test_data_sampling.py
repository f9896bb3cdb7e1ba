from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.data.sampling import blend_scores, draw_case, draw_centre, weigh_cases
from tests.builders import make_plan

shapes = st.tuples(*[st.integers(1, 12)] * 3)
edges = st.tuples(*[st.integers(1, 12)] * 3)


class Stub:
    """A case of a shape with foreground points, without files."""

    def __init__(self, shape, points=None, labelled=None):
        self.shape, self.points, self.labelled = shape, points or {}, labelled


# --- which case --------------------------------------------------------------------------------


def test_a_case_is_drawn_as_often_as_its_weight_says():
    rng = np.random.default_rng(0)
    found = Counter(draw_case(rng, [1, 0, 2, 5]) for _ in range(8000))
    assert [found[case] for case in range(4)] == pytest.approx([1000, 0, 2000, 5000], abs=120)


class Last:
    """Chance at its largest."""

    def random(self):
        return np.nextafter(1.0, 0)


def test_the_largest_number_draws_the_last_case_that_has_a_weight():
    assert draw_case(Last(), [0.1, 0.7, 0.0]) == 1


def test_a_harder_case_is_drawn_more_often():
    easy, middle, hard = weigh_cases({"a": 0.9, "b": 0.88, "c": 0.86}, ["a", "b", "c"])
    assert easy < middle < hard
    assert hard / easy == pytest.approx(np.exp(0.4))  # 0.04 of Dice at a temperature of 0.1
    assert easy + middle + hard == pytest.approx(1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(1, 5))
def test_no_case_is_drawn_more_often_than_the_bound_allows(dice, most):
    weights = weigh_cases({str(n): value for n, value in enumerate(dice)}, [*map(str, range(25))], most=most)
    assert weights.max() / weights.min() <= most * (1 + 1e-9)


def test_a_failed_case_reaches_the_bound_and_no_more():
    weights = weigh_cases({"a": 1.0, "b": 0.0}, ["a", "b"], most=3.0)
    assert weights[1] / weights[0] == pytest.approx(3)


@pytest.mark.parametrize("scores", [{}, {"gone": 0.1}, {"a": 0.5}])
def test_without_scores_to_compare_all_cases_are_alike(scores):
    assert weigh_cases(scores, ["a", "b"]) == pytest.approx([0.5, 0.5])


def test_a_running_score_moves_towards_each_of_its_patches():
    old = {"a": 0.5}
    assert blend_scores(old, ("a", "b", "a"), (1.0, 0.2, 1.0), keep=0.5) == {"a": 0.875, "b": 0.2}
    assert old == {"a": 0.5}


def test_a_patch_without_a_score_changes_nothing():
    assert blend_scores({"a": 0.5}, ["a", "b"], [np.nan, np.nan]) == {"a": 0.5}


# --- where a patch lies ------------------------------------------------------------------------


@given(shapes, edges, st.integers(0, 1000), st.booleans(), st.data())
def test_a_patch_lies_inside_its_case_or_covers_it(shape, patch, seed, on_foreground, data):
    point = [data.draw(st.integers(0, n - 1)) for n in shape]
    case = Stub(shape, {1: np.array([point])})
    centre = draw_centre(
        np.random.default_rng(seed), case, make_plan(patch=patch), on_foreground=on_foreground
    )
    start = centre - np.array(patch) // 2
    stop = start + patch
    for a, b, n, edge in zip(start, stop, shape, patch, strict=True):
        assert (a >= 0 and b <= n) if edge <= n else (a <= 0 and b >= n)


@given(shapes, edges, st.integers(0, 1000), st.data())
def test_a_foreground_patch_holds_its_point(shape, patch, seed, data):
    point = np.array([data.draw(st.integers(0, n - 1)) for n in shape])
    case = Stub(shape, {1: point[None]})
    centre = draw_centre(np.random.default_rng(seed), case, make_plan(patch=patch), on_foreground=True)
    start = centre - np.array(patch) // 2
    assert ((point >= start) & (point < start + patch)).all()


def draw_many(case, plan, count=3000, *, on_foreground=False):
    rng = np.random.default_rng(0)
    return Counter(
        tuple(draw_centre(rng, case, plan, on_foreground=on_foreground).tolist()) for _ in range(count)
    )


def test_positions_are_drawn_uniformly():
    found = draw_many(Stub((9, 4, 4)), make_plan(patch=(4, 4, 4)))
    assert {i for i, _, _ in found} == set(range(2, 8))
    assert max(found.values()) < 1.3 * min(found.values())


def test_labels_are_drawn_equally_often_however_small():
    case = Stub((9, 9, 9), {1: np.full((500, 3), 2), 2: np.full((1, 3), 6)})
    found = draw_many(case, make_plan(patch=(1, 1, 1)), on_foreground=True)
    assert found[2, 2, 2] == pytest.approx(1500, abs=120)


def test_without_foreground_any_position_will_do():
    assert len(draw_many(Stub((5, 5, 5)), make_plan(patch=(4, 4, 4)), on_foreground=True)) == 8


def test_in_2d_any_slice_is_drawn():
    found = draw_many(Stub((4, 4, 5)), make_plan(patch=(4, 4, 1)))
    assert set(found) == {(2, 2, k) for k in range(5)}
