"""Refine steps in a row, and what every entry of REFINE must do."""

from functools import partial

import pytest
import torch

from medseg.core.geometry import Geometry
from medseg.core.select import select
from medseg.inference.refine import REFINE, apply_refine

GRID = Geometry.of_spacing((6, 5, 4), (0.5, 1.25, 3.0))
every_step = pytest.mark.parametrize("step", list(REFINE.values()), ids=list(REFINE))


def draw(classes=3):
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(classes, *GRID.shape, generator=rng)
    return torch.softmax(logits, dim=0), torch.randn(1, *GRID.shape, generator=rng)


@every_step
def test_probabilities_sum_to_one(step):
    found = step(*draw(), GRID)
    assert found.dtype == torch.float32 and float(found.min()) >= 0
    assert torch.allclose(found.sum(0), torch.ones(GRID.shape), atol=1e-5)


@every_step
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_flipped_axes_give_the_flipped_result(step, axis):
    probabilities, image = draw()
    found = step(probabilities.flip(axis), image.flip(axis), GRID)
    assert torch.allclose(found, step(probabilities, image, GRID).flip(axis), atol=1e-5)


@every_step
def test_the_input_stays(step):
    probabilities, image = draw()
    before = probabilities.clone()
    step(probabilities, image, GRID)
    assert torch.equal(probabilities, before)


def test_steps_run_in_order():
    first, second = (lambda p, image, geometry: p + 1), (lambda p, image, geometry: p * 2)
    zeros = torch.zeros(1, *GRID.shape)
    assert torch.equal(apply_refine([first, second], zeros, zeros, GRID), zeros + 2)


def test_no_step_changes_nothing():
    probabilities, image = draw()
    assert torch.equal(apply_refine([], probabilities, image, GRID), probabilities)


def test_a_half_precision_image_will_do():
    step = select("refine step", REFINE, "crf", {"iterations": 2})
    probabilities, image = draw()
    found = apply_refine([step], probabilities, image.half(), GRID)
    assert torch.equal(found, step(probabilities, image.half().float(), GRID))


def test_overlapping_regions_share_the_bound_of_time():
    probabilities, image = draw(classes=2)
    seen = []

    def step(pair, image, geometry, *, max_pairs=8.0):
        seen.append(max_pairs)
        return pair

    apply_refine([step, partial(step, max_pairs=6.0)], probabilities, image, GRID, overlapping=True)
    assert seen == [4.0, 3.0, 4.0, 3.0]


def test_overlapping_regions_are_refined_each_against_its_complement():
    probabilities, image = draw()
    step = select("refine step", REFINE, "crf", {})
    regions = torch.stack([probabilities[0], probabilities[0] + probabilities[1]])
    found = apply_refine([step], regions, image, GRID, overlapping=True)
    alone = step(torch.stack([1 - regions[1], regions[1]]), image, GRID)[1]
    assert torch.equal(found[1], alone) and found.shape == regions.shape
