"""From a budget in CPU seconds to a number of iterations, known before the first: the schedule needs it.

One short run of the very command is taken apart by the CPU seconds at which things are seen to happen. It
is made once per recipe and machine, so that seeds and budgets of a recipe rest on one measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

AIM = 0.97  # share of the budget that is planned for: what an iteration costs varies by some percent
TOLERANCE = 1.02  # a run that used more than this share is not within its budget
EPOCHS, ITERATIONS = 3, 20  # of the short run; the first epoch warms up, the last one validates


class BudgetTooSmall(RuntimeError):  # noqa: N818  (reads as what happened)
    """Not one iteration fits."""


class Costs(NamedTuple):
    """CPU seconds of a run's parts.

    Args:
        before: Up to the first iteration: start-up, checks, preprocessing, warm-up.
        iteration: One training step and its batch.
        validation: One, of the chosen cases.
        after: Prediction and evaluation of all that is held out.
    """

    before: float
    iteration: float
    validation: float
    after: float


class Schedule(NamedTuple):
    """What a training is told."""

    epochs: int
    iterations_per_epoch: int


def costs_of(marks: Mapping[str, float], total_cpu_s: float, iterations: int) -> Costs:
    """Return the costs that a short run shows, from the CPU seconds at which epochs 1, 2 and 3 ended.

    Args:
        marks: "epoch 1", "epoch 2", "epoch 3" -> CPU seconds; validated after the last one only.
        total_cpu_s: At the end.
        iterations: Of each epoch.
    """
    first, second, third = (marks[f"epoch {n}"] for n in (1, 2, 3))
    epoch = second - first
    validation = max(0.0, third - second - epoch)
    return Costs(max(0.0, first - epoch), epoch / iterations, validation, max(0.0, total_cpu_s - third))


def schedule_within(
    budget_cpu_s: float, costs: Costs, iterations_per_epoch: int, validate_every: int, aim: float = AIM
) -> Schedule:
    """Return the longest training whose planned cost stays within `aim` of the budget.

    Epochs have at most the recipe's length, and a little less where that fills the budget better.

    Raises:
        BudgetTooSmall: Not one iteration fits.
    """
    free = aim * budget_cpu_s - costs.before - costs.after

    def length(epochs: int) -> int:
        left = free - math.ceil(epochs / validate_every) * costs.validation
        return min(iterations_per_epoch, math.floor(left / (costs.iteration * epochs)))

    most = max(1, math.ceil(free / (costs.iteration * iterations_per_epoch)))
    epochs = max(range(1, most + 1), key=lambda epochs: epochs * length(epochs))
    if length(epochs) < 1:
        raise BudgetTooSmall(f"{budget_cpu_s:g} CPU-seconds hold no iteration: {costs}")
    return Schedule(epochs, length(epochs))


def is_within(cpu_s: float, budget_cpu_s: float) -> bool:
    """Whether a run counts as one of its budget."""
    return cpu_s <= TOLERANCE * budget_cpu_s


def to_json(costs: Costs, schedule: Schedule) -> dict[str, Any]:
    """Return both as plain data."""
    return {**costs._asdict(), **schedule._asdict()}
