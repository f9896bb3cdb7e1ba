"""Which case a patch is cut from, and where.

Both are functions of (seed, epoch, sample) and of plain weights, so that a resumed run draws what an
uninterrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.data.plan import Plan
from medseg.data.store import StoredCase

TEMPERATURE = 0.1  # a case whose Dice is this much below the mean is drawn e times as often, if it may


def draw_case(rng: np.random.Generator, weights: ArrayLike) -> int:
    """Draw a case, each as often as its weight says.

    Args:
        rng: The only source of chance; one number is taken from it.
        weights: (cases,), not negative, not all 0; they need not add up to 1.
    """
    rising = np.cumsum(np.asarray(weights, float))
    return int(np.searchsorted(rising, rng.random() * rising[-1], side="right"))


def weigh_cases(
    scores: Mapping[str, float], cases: Sequence[str], *, most: float = 3.0
) -> NDArray[np.float64]:
    """Return how often to draw each case: harder ones more, the hardest at most `most` times the easiest.

    A softmax of 1 - Dice around its mean, cut at both ends: the bound keeps a case with a wrong label, which
    never gets better, from taking over.

    Args:
        scores: Dice by case id, as `blend_scores` keeps them; a case without one counts as average.
        cases: Ids in the order of the training cases.
        most: 1 or more; 1 draws all alike.

    Returns:
        (cases,) probabilities.
    """
    known = [scores[case] for case in cases if case in scores]
    mean = float(np.mean(known)) if known else 0.0
    bound = np.log(most) / 2
    hardness = np.array([(mean - scores.get(case, mean)) / TEMPERATURE for case in cases])
    weights = np.exp(np.clip(hardness, -bound, bound))
    return np.asarray(weights / weights.sum())


def blend_scores(
    scores: Mapping[str, float], cases: Iterable[str], dice: Iterable[float], *, keep: float = 0.8
) -> dict[str, float]:
    """Return the running Dice of each case after some of its patches were seen: plain, for a checkpoint.

    Args:
        scores: So far.
        cases: Of the patches in their order; a case may come more than once.
        dice: Of each patch. One that is no number, where a patch has no foreground, is passed over.
        keep: Share of the old value that stays (exponential moving average).
    """
    blended = dict(scores)
    for case, value in zip(cases, dice, strict=True):
        if np.isfinite(value):
            blended[case] = keep * blended.get(case, value) + (1 - keep) * value
    return blended


def draw_centre(
    rng: np.random.Generator, case: StoredCase, plan: Plan, *, on_foreground: bool
) -> NDArray[np.int64]:
    """Draw the voxel at a patch's middle.

    On foreground: a voxel of a random present class. Otherwise uniform over the positions at which
    the patch lies inside the case, or over labelled voxels where some are ignored; an axis shorter than
    the patch is centred. In 2D on a volume the last axis picks the slice.
    """
    shape, patch = np.array(case.shape), np.array(plan.patch)
    half = patch // 2
    last = shape - patch + half
    if on_foreground and case.points:
        labels = sorted(case.points)
        points = case.points[labels[int(rng.integers(len(labels)))]]
        centre = points[int(rng.integers(len(points)))].astype(np.int64)
    elif case.labelled is not None:
        centre = case.labelled[int(rng.integers(len(case.labelled)))].astype(np.int64)
    else:
        centre = rng.integers(half, np.maximum(last, half) + 1)
    # Keep the patch inside; where the case is shorter than the patch, centre it.
    return np.where(last <= half, shape // 2, np.clip(centre, half, last))
