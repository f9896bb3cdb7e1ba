"""Choose post-processing for one label from predictions of cases that the networks did not train on.

Nested cross-validation: for each part of the cases the rule is chosen on the other parts alone (thresholds,
too, come from their references) and applied to this part. So the gain is what a choice made this way brings
on cases that had no say in it. It is kept only if the interval of the mean gain lies above 0; what is
then used is the rule that is best on all cases. nnU-Net keeps what helps on the very cases it was chosen on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.metrics.paired import Interval, bootstrap_mean
from medseg.postprocess.rules import Outcome, Rule, list_rules


@dataclass(frozen=True)
class HeldOut:
    """One label of a case that was predicted by a network which did not see it.

    Args:
        part: The part of the cross-validation that the case belongs to; a patient is in one part only.
        patient: Whose case it is.
        outcome: Dice under any rule.
    """

    part: int
    patient: str
    outcome: Outcome


@dataclass(frozen=True)
class Choice:
    """What was chosen for one label.

    Args:
        rule: To use; `Rule()` where no gain is shown.
        best: The best on all cases, used or not.
        by_part: Part -> the rule chosen without it.
        before, after: Mean Dice without a rule, and with those of `by_part`.
        gain: After minus before, case by case; None where the label is in no case.
    """

    rule: Rule
    best: Rule
    by_part: dict[int, Rule]
    before: float | None
    after: float | None
    gain: Interval | None


def choose_rule(cases: Sequence[HeldOut], *, seed: int) -> Choice:
    """Choose one label's rule; cases where the label is in neither mask say nothing."""
    told = [case for case in cases if case.outcome.dice(Rule()) is not None]
    if not told:
        return Choice(Rule(), Rule(), {}, None, None, None)
    parts = sorted({case.part for case in told})
    by_part = {part: _find_best([case.outcome for case in told if case.part != part]) for part in parts}
    before = [_score(case.outcome, Rule()) for case in told]
    after = [_score(case.outcome, by_part[case.part]) for case in told]
    gains = [new - old for new, old in zip(after, before)]
    gain = bootstrap_mean(gains, [case.patient for case in told], seed=seed)
    best = _find_best([case.outcome for case in told])
    rule = best if gain.is_above_zero else Rule()
    return Choice(rule, best, by_part, _mean(before), _mean(after), gain)


def _find_best(outcomes: Sequence[Outcome]) -> Rule:
    """Return the rule with the highest mean Dice; of equals the one that changes least."""
    rules = list_rules(outcomes)
    return max(rules, key=lambda rule: _mean([_score(outcome, rule) for outcome in outcomes]))


def _score(outcome: Outcome, rule: Rule) -> float:
    dice = outcome.dice(rule)
    assert dice is not None, "cases without the label were left out"
    return dice


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
