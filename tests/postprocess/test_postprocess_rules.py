"""Rules scored from counts of components: the same Dice as applying them gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.core.geometry import Geometry
from medseg.core.select import select
from medseg.postprocess import POSTPROCESS, apply
from medseg.postprocess.rules import Rule, list_rules, measure_case, write_steps

SPACING_MM = (1.0, 2.0, 5.0)  # 10 mm3
SHAPE = (10, 8, 6)
GRID = Geometry.of_spacing(SHAPE, SPACING_MM)
MAPS = arrays(np.uint8, (6, 5, 4), elements=st.sampled_from([0, 0, 0, 1, 1, 2]))


@pytest.fixture
def organ():
    """Label 1: 3 x 3 x 3 voxels."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 1:4, 1:4] = 1
    return labels


@pytest.fixture
def with_speck(organ):
    """The organ, and a speck of 2 voxels that the reference does not have."""
    predicted = organ.copy()
    predicted[7:9, 6, 1] = 1
    return predicted


def test_a_speck_costs_what_can_be_counted(organ, with_speck):
    outcome = measure_case(organ, with_speck, GRID, [1])[1]
    assert outcome.dice(Rule()) == 2 * 27 / (27 + 29)
    assert outcome.dice(Rule(largest=True)) == 1


@pytest.mark.parametrize(("min_volume_mm3", "dice"), [(20, 54 / 56), (21, 1.0), (271, 0.0)])
def test_the_threshold_is_a_volume_and_keeps_its_own_value(organ, with_speck, min_volume_mm3, dice):
    outcome = measure_case(organ, with_speck, GRID, [1])[1]
    assert outcome.dice(Rule(min_volume_mm3=min_volume_mm3)) == dice


def test_a_filled_cavity_counts(organ):
    hollow = organ.copy()
    hollow[2, 2, 2] = 0
    outcome = measure_case(organ, hollow, GRID, [1])[1]
    assert (outcome.dice(Rule()), outcome.dice(Rule(fills=True))) == (2 * 26 / (26 + 27), 1)


def test_a_label_in_neither_mask_is_undefined_under_every_rule(organ):
    outcome = measure_case(organ, organ, GRID, [1, 2])[2]
    assert {outcome.dice(rule) for rule in (Rule(), Rule(fills=True), Rule(largest=True))} == {None}


def test_emptying_what_has_no_reference_turns_zero_into_one(with_speck):
    outcome = measure_case(np.zeros_like(with_speck), with_speck, GRID, [1])[1]
    assert [outcome.dice(Rule(min_volume_mm3=limit)) for limit in (0, 21, 300)] == [0, 0, 1]


def test_a_missed_label_stays_missed(organ):
    outcome = measure_case(organ, np.zeros_like(organ), GRID, [1])[1]
    assert (outcome.dice(Rule()), outcome.dice(Rule(largest=True))) == (0, 0)


def test_volumes_to_try_come_from_the_reference_and_lie_below_its_smallest(organ):
    organ[7:9, 6, 1] = 1  # components of 27 and 2 voxels: 270 and 20 mm3
    rules = list_rules([measure_case(organ, organ, GRID, [1])[1]])
    assert [rule.min_volume_mm3 for rule in rules if not rule.fills] == [0, 2, 20, 0]
    assert [rule.largest for rule in rules if not rule.fills] == [False, False, False, True]


def test_every_rule_exists_with_and_without_filling(organ):
    rules = list_rules([measure_case(organ, organ, GRID, [1])[1]])
    half = len(rules) // 2
    assert rules[0] == Rule()
    assert [Rule(True, r.min_volume_mm3, r.largest) for r in rules[:half]] == rules[half:]


def test_without_a_reference_no_volume_is_tried():
    assert list_rules([]) == [Rule(), Rule(largest=True), Rule(fills=True), Rule(fills=True, largest=True)]


def test_a_rounded_volume_does_not_drop_the_component_it_came_from():
    odd = Geometry.of_spacing(SHAPE, (0.7654321, 1.2345678, 3.3333333))
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 1, 1] = 1
    outcome = measure_case(labels, labels, odd, [1])[1]
    assert {outcome.dice(rule) for rule in list_rules([outcome])} == {1.0}


def test_no_rule_is_no_step():
    assert write_steps({1: Rule(), 2: Rule()}) == []


@settings(deadline=None, max_examples=150)
@given(
    reference=MAPS,
    predicted=MAPS,
    rules=st.fixed_dictionaries(
        {
            label: st.builds(Rule, st.booleans(), st.sampled_from([0.0, 20.0, 40.0]))
            | st.builds(Rule, st.booleans(), largest=st.just(True))
            for label in (1, 2)
        }
    ),
)
def test_the_score_is_that_of_applying_the_steps_of_all_labels(reference, predicted, rules):
    grid = Geometry.of_spacing(reference.shape, SPACING_MM)
    outcomes = measure_case(reference, predicted, grid, [1, 2])
    steps = [select("step", POSTPROCESS, step["name"], step["options"]) for step in write_steps(rules)]
    applied = apply(steps, predicted, grid)
    for label, rule in rules.items():
        sizes = np.sum(applied == label) + np.sum(reference == label)
        both = np.sum((applied == label) & (reference == label))
        told = outcomes[label].dice(rule)
        if told is None:
            assert not sizes
        else:
            assert told == (2 * both / sizes if sizes else 1)
