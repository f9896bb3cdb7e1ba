"""Train a locator on coarse cases, and choose threshold and margin on cases that it did not see.

Nothing is carried from step to step but weights: what a step draws is a function of (seed, step).

Shape legend: C channels, (I, J, K) voxels, (P, Q, R) coarse voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medseg.core.volume import IGNORED
from medseg.data.store import StoredCase
from medseg.inference.locator import (
    SMALLEST,
    Spans,
    build_network,
    find_spans,
    place_edges,
    predict,
    shrink,
    widen,
)
from medseg.inference.windows import Box
from medseg.losses import LOSSES

RATE = 5e-3
MOST_STEPS, LEAST_STEPS = 300, 60
VOXELS = 6e7  # coarse voxels that a training sees: about a minute of one core
LEAST_CROP = 0.6  # of an edge: fields of view differ
JITTER = 0.1  # of contrast, and of brightness in standard deviations
MORE = 2  # coarse voxels of margin: one for where they end, one since few cases were seen
THRESHOLDS = (0.5, 0.3, 0.1, 0.03)


@dataclass(frozen=True)
class Coarse:
    """A stored case as a locator sees it.

    Args:
        image: (C, P, Q, R) means over coarse voxels.
        label: (P, Q, R), 1 where a coarse voxel holds any foreground, else 255 where it holds ignored ones.
        edges: Of coarse voxels, see `place_edges`.
        spans: The box of foreground in voxels; None without any.
        shape: (3,) voxels.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    edges: Sequence[NDArray[np.int64]]
    spans: Spans | None
    shape: tuple[int, int, int]

    @property
    def is_large(self) -> bool:
        """Whether the network can work on it."""
        return bool(max(self.label.shape) > SMALLEST)


@dataclass(frozen=True)
class Choice:
    """How a locator is to be used.

    Args:
        threshold, margin_mm, recall: See `Locator`.
        share: Mean share of the images' voxels that the boxes hold.
    """

    threshold: float
    margin_mm: float
    recall: float
    share: float


def make_coarse(case: StoredCase, spacing_mm: Sequence[float], coarse_mm: Sequence[float]) -> Coarse:
    """Return a case on coarse voxels."""
    edges = place_edges(case.shape, spacing_mm, coarse_mm)
    label = np.asarray(case.label[:])
    foreground = _is_foreground(label)
    coarse = _any(foreground, edges).astype(np.uint8)
    coarse[(coarse == 0) & _any(label == IGNORED, edges)] = IGNORED
    every = [np.arange(n + 1) for n in case.shape]
    return Coarse(
        shrink(np.asarray(case.image[:]), edges), coarse, edges, find_spans(foreground, every), case.shape
    )


def train_locator(cases: Sequence[Coarse], *, seed: int) -> tuple[nn.Module, list[int]]:
    """Return a network in eval mode, trained on cases of which one at least is large, and its shape."""
    cases = [case for case in cases if case.is_large]
    shapes = np.array([case.label.shape for case in cases])
    shape = [int(n) for n in np.median(shapes, axis=0)]
    shape[int(np.argmax(shape))] = max(*shape, SMALLEST + 1)
    steps = int(min(MOST_STEPS, max(LEAST_STEPS, VOXELS / prod(shape))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(len(cases[0].image), shape)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        image, label = draw_sample(cases, np.random.default_rng([seed, step]))
        optimizer.zero_grad()
        loss = LOSSES["dice_ce"](network(torch.from_numpy(image)[None]), torch.from_numpy(label)[None].long())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network.eval(), shape


def draw_sample(
    cases: Sequence[Coarse], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return image and label of a random part of a random case, its intensities changed a little."""
    case = cases[int(rng.integers(len(cases)))]
    box = []
    for n in case.label.shape:
        size = max(min(n, SMALLEST + 1), ceil(n * rng.uniform(LEAST_CROP, 1)))
        start = int(rng.integers(n - size + 1))
        box.append(slice(start, start + size))
    image = case.image[(slice(None), *box)]
    contrast, brightness = rng.uniform(1 - JITTER, 1 + JITTER), rng.uniform(-JITTER, JITTER)
    changed = image * np.float32(contrast) + np.float32(brightness)
    return changed, np.ascontiguousarray(case.label[tuple(box)])


def choose_margin(
    network: nn.Module,
    cases: Sequence[Coarse],
    spacing_mm: Sequence[float],
    coarse_mm: Sequence[float],
    count: Callable[[int, Box], tuple[int, int]],
) -> Choice:
    """Return the threshold whose boxes are smallest once no foreground of any case lies outside.

    The margin is what the worst case needs, and two coarse voxels more. Recall is measured crosswise: each
    case's box has the margin that the others need. Where nothing is located the whole image is looked at.

    Args:
        network: Trained on other cases.
        cases: Held out; at least one.
        spacing_mm: (3,) of voxels.
        coarse_mm: (3,) of coarse ones.
        count: (case's index, box) -> foreground voxels inside the box, and in all.
    """
    chances = [predict(network, case.image) if case.is_large else None for case in cases]
    extra = MORE * max(coarse_mm)
    trials = []
    for threshold in THRESHOLDS:
        found = [
            None if chance is None else find_spans(chance > threshold, case.edges)
            for case, chance in zip(cases, chances)
        ]
        needed = [measure_excess(own, case.spans, spacing_mm) for own, case in zip(found, cases)]
        margin = max(needed) + extra
        boxes = [_place(own, margin, spacing_mm, case.shape) for own, case in zip(found, cases)]
        share = sum(_volume(box) / prod(case.shape) for box, case in zip(boxes, cases)) / len(cases)
        trials.append((share, -threshold, margin, found, needed))
    share, negative, margin, found, needed = min(trials, key=lambda trial: trial[:2])
    inside = total = 0
    for index, (own, case) in enumerate(zip(found, cases)):
        others = max([*needed[:index], *needed[index + 1 :]], default=0.0)
        hits, voxels = count(index, _place(own, others + extra, spacing_mm, case.shape))
        inside, total = inside + hits, total + voxels
    return Choice(-negative, margin, inside / total if total else 0.0, share)


def count_inside(case: StoredCase, box: Box) -> tuple[int, int]:
    """Return how many foreground voxels of a case lie in a box, and how many there are."""
    foreground = _is_foreground(np.asarray(case.label[:]))
    return int(foreground[box].sum()), int(foreground.sum())


def measure_excess(found: Spans | None, truth: Spans | None, spacing_mm: Sequence[float]) -> float:
    """Return by how many mm the true box reaches beyond the one found; nothing found counts as everything."""
    if found is None or truth is None:
        return 0.0
    sides = [
        step * max(own[0] - real[0], real[1] - own[1]) for own, real, step in zip(found, truth, spacing_mm)
    ]
    return max(0.0, *sides)


def _is_foreground(label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((label > 0) & (label != IGNORED))


def _any(mask: NDArray[np.bool_], edges: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    for axis, line in enumerate(edges):
        mask = np.asarray(np.logical_or.reduceat(mask, line[:-1], axis=axis), bool)
    return np.asarray(mask, bool)


def _place(spans: Spans | None, margin_mm: float, spacing_mm: Sequence[float], shape: Sequence[int]) -> Box:
    return widen(spans or tuple((0, n) for n in shape), margin_mm, spacing_mm, shape)


def _volume(box: Box) -> int:
    return prod(part.stop - part.start for part in box)
