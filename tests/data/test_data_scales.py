"""Plans to choose from: what grows, in which order, and what stays."""

from math import prod

import pytest

from medseg.data.blank import BlankCase
from medseg.data.fingerprint import Fingerprint, Intensity
from medseg.data.plan import SLOW_BATCH, Scale, make_plan
from medseg.data.scales import list_plans, step_work
from medseg.data.settings import Channel, Data, Grid

STATS = Intensity(mean=40.0, std=20.0, p00_5=-100.0, p99_5=300.0, p99_95=400.0)
DATA = Data(channels={"ct": Channel(normalize="ct")}, labels={1: "organ"})


def plans(shape=(96, 80, 64), *, device="cpu", is_width_free=True, **grid):
    found = Fingerprint(9, shape, (1.0, 1.0, 2.0), (1.0, 1.0, 2.0), (0.9, 0.1), (STATS,))
    chosen = Grid(**grid)

    def make(scale):
        return make_plan(found, DATA, chosen, device=device, memory_gb=8, rotate_degrees=None, scale=scale)

    return list_plans(make, chosen, device, is_width_free=is_width_free)


def test_each_plan_is_more_work_than_the_one_before():
    works = [step_work(plan) for plan in plans()]
    assert len(works) > 5 and works == sorted(set(works))


def test_the_patch_grows_to_the_median_shape_then_the_batch_then_the_width():
    made = plans()
    patches = [prod(plan.patch) for plan in made]
    batches = [plan.batch_size for plan in made]
    widths = [plan.features[0] for plan in made]
    full = patches.index(96 * 80 * 64)
    assert patches[0] <= 32**3 and set(patches[full:]) == {96 * 80 * 64}
    assert set(batches[: full + 1]) == {2} and batches[full : full + 5] == [2, 3, 4, 6, 8]
    assert set(widths[: full + 5]) == {12} and widths[full + 5 :] == [16, 24, 32]
    assert set(batches[full + 5 :]) == {8}


def test_wider_plans_may_have_more_channels_at_the_bottom():
    assert max(plans()[0].features) <= 128 and max(plans((400, 400, 200))[-1].features) > 128


def test_a_network_with_a_width_of_its_own_keeps_it():
    assert {plan.features[0] for plan in plans(is_width_free=False)} == {12}


def test_a_fixed_patch_leaves_batches_from_one_on():
    made = plans(patch=(32, 32, 16), is_width_free=False)
    assert [plan.batch_size for plan in made] == [1, 2, 3, 4, 6, 8]
    assert {plan.patch for plan in made} == {(32, 32, 16)}


def test_a_fixed_batch_leaves_the_patch():
    made = plans(batch_size=5, is_width_free=False)
    assert {plan.batch_size for plan in made} == {5} and len({plan.patch for plan in made}) > 5


def test_what_is_fixed_in_all_is_one_plan():
    assert len(plans(patch=(32, 32, 16), batch_size=2, is_width_free=False)) == 1


def test_a_gpu_stops_at_its_largest_patch_and_keeps_its_width():
    made = plans((400, 400, 400), device="cuda", spacing_mm=(1.0, 1.0, 1.0))
    assert max(prod(plan.patch) for plan in made) == 160**3
    assert {plan.features[0] for plan in made} == {32} and made[-1].batch_size == 64


def test_a_cohort_smaller_than_the_smallest_patch_starts_with_all_of_it():
    assert plans((16, 16, 8))[0].patch == (16, 16, 8)


@pytest.mark.parametrize(
    ("device", "batch", "said"), [("cpu", 1, True), ("cpu", 2, False), ("cuda", 1, False)]
)
def test_one_sample_on_a_cpu_is_said_to_be_slow(device, batch, said):
    (plan,) = plans(patch=(32, 32, 16), batch_size=batch, is_width_free=False, device=device)
    assert plan.reasons["batch_size"].endswith(SLOW_BATCH) is said


def test_a_scale_stands_in_for_the_rules_of_thumb():
    found = Fingerprint(9, (96, 80, 64), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.9, 0.1), (STATS,))
    made = make_plan(
        found, DATA, Grid(), device="cpu", memory_gb=8, rotate_degrees=None, scale=Scale(20**3, 5, 7)
    )
    assert prod(made.patch) <= 20**3 and made.batch_size == 5 and made.features[:2] == (7, 14)


def test_a_shape_at_another_spacing_spans_the_same_millimetres():
    found = Fingerprint(9, (100, 80, 30), (1.0, 1.0, 4.0), (1.0, 1.0, 4.0), (0.9, 0.1), (STATS,))
    assert found.shape_at((2.0, 1.0, 3.0)) == (50, 80, 40)


def test_a_blank_case_has_every_class_in_its_middle_and_nothing_else():
    case = BlankCase((20, 4, 6), channels=2, classes=3)
    assert case.shape == (20, 4, 6) and case.image.shape == (2, 20, 4, 6) and not case.image.any()
    assert set(case.label[6:14].ravel()) == {1, 2, 3}
    assert not case.label[:6].any() and not case.label[14:].any()
    assert {value: points.tolist() for value, points in case.points.items()} == {
        value: [[10, 2, 3]] for value in (1, 2, 3)
    }
