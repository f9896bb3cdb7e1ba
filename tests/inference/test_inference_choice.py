"""Post-processing chosen on held-out cases that can be counted by hand."""

import numpy as np

from medseg.core.geometry import Geometry
from medseg.inference.choice import HeldOut, choose_rule
from medseg.postprocess.rules import Rule, measure_case

SHAPE = (12, 8, 6)
GRID = Geometry.of_spacing(SHAPE, (1.0, 2.0, 5.0))  # 10 mm3


def organ(*specks: int) -> np.ndarray:
    """Return 3 x 3 x 3 voxels, and apart from them a row of voxels of each length given."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 1:4, 1:4] = 1
    for number, length in enumerate(specks):
        labels[6 : 6 + length, 6, 2 * number] = 1
    return labels


def hold_out(number: int, reference: np.ndarray, predicted: np.ndarray, parts: int = 5) -> HeldOut:
    outcome = measure_case(reference, predicted, GRID, [1])[1]
    return HeldOut(number % parts, f"patient {number}", outcome)


def test_specks_that_no_reference_has_are_removed():
    choice = choose_rule([hold_out(n, organ(), organ(1 + n % 2)) for n in range(10)], seed=0)
    assert choice.rule == choice.best == Rule(min_volume_mm3=27)  # a tenth of the organ's 270 mm3
    assert choice.after == 1 and choice.gain.is_above_zero


def test_a_rule_that_gains_nothing_is_not_kept():
    choice = choose_rule([hold_out(n, organ(), organ()) for n in range(10)], seed=0)
    assert choice.rule == choice.best == Rule()
    assert (choice.gain.mean, choice.gain.low, choice.gain.high) == (0, 0, 0)


def test_a_gain_in_one_case_is_not_kept_though_it_is_best():
    cases = [hold_out(n, organ(), organ(2) if n == 4 else organ()) for n in range(10)]
    choice = choose_rule(cases, seed=0)
    assert choice.rule == Rule() and choice.best != Rule()


def test_specks_that_the_references_have_stay():
    choice = choose_rule([hold_out(n, organ(2), organ(2)) for n in range(10)], seed=0)
    assert choice.rule == Rule() and choice.before == 1


def test_cavities_are_filled_where_that_helps():
    hollow = organ()
    hollow[2, 2, 2] = 0
    choice = choose_rule([hold_out(n, organ(), hollow) for n in range(10)], seed=0)
    assert choice.rule == Rule(fills=True)


def test_a_case_has_no_say_in_the_rule_it_is_scored_with():
    # Part 0 alone has specks: the others choose nothing for it, and it chooses removal for the others.
    cases = [hold_out(n, organ(), organ(2) if n % 2 == 0 else organ(), parts=2) for n in range(12)]
    choice = choose_rule(cases, seed=0)
    assert choice.by_part[0] == Rule() and choice.by_part[1] != Rule()
    assert choice.gain.mean == 0 and choice.rule == Rule()


def test_thresholds_for_a_part_come_from_the_references_of_the_others():
    # Components of 270 mm3 in part 0 and of 20 mm3 in part 1: each is judged by the other's volumes.
    small, specked = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    small[1:3, 1, 1] = specked[1:3, 1, 1] = specked[6, 6, 0] = 1
    cases = [
        hold_out(n, *((organ(), organ(1)) if n % 2 == 0 else (small, specked)), parts=2) for n in range(12)
    ]
    choice = choose_rule(cases, seed=0)
    assert choice.by_part[0].min_volume_mm3 in {2, 20}
    assert choice.by_part[1].min_volume_mm3 in {27, 270}


def test_many_scans_of_few_patients_show_no_gain():
    cases = [HeldOut(n % 5, f"patient {n % 5}", hold_out(n, organ(), organ(2)).outcome) for n in range(30)]
    choice = choose_rule(cases, seed=0)
    assert choice.rule == Rule() and choice.gain.mean > 0 and choice.gain.low is None


def test_a_label_that_occurs_nowhere_gets_no_rule():
    empty = np.zeros(SHAPE, np.uint8)
    choice = choose_rule([hold_out(n, empty, empty) for n in range(10)], seed=0)
    assert choice.rule == Rule() and choice.gain is None
