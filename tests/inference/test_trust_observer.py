"""What logits say of themselves: sums that can be counted, whatever the slabs."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from medseg.core.geometry import Geometry
from medseg.data.preprocess import Placement
from medseg.inference.trust import observer as module
from medseg.inference.trust.maps import Maps
from medseg.inference.trust.observer import SUMS, Observer, Whole, measure_entropy, to_probabilities
from medseg.inference.trust.quality import expect_dice
from medseg.inference.trust.sample import FAR, NEAR, Sampler, widen

SHAPE = (5, 4, 6)


def odds(p: float) -> float:
    return math.log(p / (1 - p))


def make_logits(p_inside: float = 0.9) -> torch.Tensor:
    """Two classes; the box [1:3, 1:3, 2:3] of four voxels is class 1 with `p_inside`, the rest surely 0."""
    logits = torch.zeros((2, *SHAPE))
    logits[1] = -40.0
    logits[1, 1:3, 1:3, 2:3] = odds(p_inside)
    return logits


def watch(logits: torch.Tensor, *, is_regions: bool = False, n: int | None = None) -> dict[str, float]:
    """Return the sums of the first structure."""
    observer = Observer(n or len(logits), logits.shape[1:], is_regions=is_regions)
    observer.observe(Whole(logits))
    return dict(zip(SUMS, observer.summarize()[0].tolist(), strict=True))


def test_sums_of_four_voxels_at_nine_tenths():
    sums = watch(make_logits())
    assert sums["voxels"] == 4 and sums["mass"] == pytest.approx(3.6) == sums["hit"]
    assert sums["variance"] == pytest.approx(4 * 0.09, rel=1e-5)
    assert sums["entropy"] == pytest.approx(4 * 0.46900, rel=1e-4)  # bits of a 0.9 coin


def test_a_plate_of_two_by_two_has_sixteen_faces():
    assert watch(make_logits())["faces"] == 16  # 2 * 4 large ones and 4 * 2 at the edges


def test_the_edge_of_the_image_is_no_face_but_a_rim():
    logits = make_logits()
    logits[1] = -40.0
    logits[1, 0, 0, 0] = 40.0
    sums = watch(logits)
    assert (sums["faces"], sums["rim"]) == (3, 1)


def test_promised_dice_is_that_of_probabilities_taken_at_their_word():
    sums = Observer(2, SHAPE, is_regions=False)
    sums.observe(Whole(make_logits()))
    assert expect_dice(sums.summarize()[0]) == pytest.approx(2 * 3.6 / (3.6 + 4), rel=1e-5)
    assert expect_dice(np.zeros(len(SUMS))) == 0


class Part:
    def __init__(self, logits: torch.Tensor, axis: int, start: int, stop: int, tells: bool = False) -> None:
        self.axis, self.start, self.stop = axis, start, stop
        values = torch.movedim(logits, axis + 1, 1)[:, start:stop]
        self.values, self.disagreement = (values[:-1], values[-1]) if tells else (values, None)

    def plane(self, index: int) -> torch.Tensor:
        return self.values[:, index]


@pytest.mark.parametrize("is_regions", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sums_do_not_depend_on_slabs(axis: int, is_regions: bool, monkeypatch: pytest.MonkeyPatch):
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (4, *SHAPE)).astype(np.float32))
    whole, parts = (Observer(3, SHAPE, is_regions=is_regions) for _ in range(2))
    whole.observe(Whole(logits[:3], logits[3]))
    monkeypatch.setattr(module, "VALUES", 1)  # plane by plane
    for start, stop in ((0, 2), (2, 3), (3, SHAPE[axis])):
        parts.observe(Part(logits, axis, start, stop, tells=True))
    assert np.allclose(whole.summarize(), parts.summarize(), rtol=1e-6)
    assert whole.has_disagreement and whole.summarize()[:, SUMS.index("disagreement")].any()


def test_regions_are_counted_each_for_itself():
    logits = torch.full((2, *SHAPE), -40.0)
    logits[0, 1:3], logits[1, 1:2] = 40.0, odds(0.75)
    first, second = (watch(logits[[one]], is_regions=True) for one in (0, 1))
    assert first["voxels"] == 2 * 24 and first["faces"] == 2 * 24
    assert second["mass"] == pytest.approx(24 * 0.75, rel=1e-5) and second["rim"] == 24 - 2 * 4


def test_a_flat_image_has_no_rim_across():
    logits = torch.full((2, 4, 5, 1), -40.0)
    logits[0] = 0.0
    logits[1, 1:3, 1:3] = 40.0
    assert watch(logits)["rim"] == 0 and watch(logits)["faces"] == 8


def test_entropy_is_one_where_all_outcomes_are_alike_and_zero_where_one_is_certain():
    p = torch.tensor([[0.25, 1.0], [0.25, 0.0], [0.25, 0.0], [0.25, 0.0]])
    assert measure_entropy(p, is_regions=False).tolist() == pytest.approx([1, 0])
    assert measure_entropy(torch.tensor([[0.5, 0.5], [0.5, 1.0]]), is_regions=True).tolist() == [1, 0.5]


def test_each_region_has_its_temperature():
    p = to_probabilities(torch.tensor([[odds(0.9)], [odds(0.9)]]), (1.0, 1e6), is_regions=True)
    assert p.flatten().tolist() == pytest.approx([0.9, 0.5], abs=1e-5)


def test_maps_lie_on_the_scans_own_grid():
    grid = Geometry.of_spacing(SHAPE, (1.0, 2.0, 3.0))
    original = Geometry.of_spacing((7, 4, 6), (1.0, 2.0, 3.0), (-1.0, 0.0, 0.0))
    placement = Placement(original, original, (1, 0, 0), (6, 4, 6), grid)
    logits = torch.cat([make_logits(0.5), torch.full((1, *SHAPE), 0.25)])
    maps = Maps(SHAPE, (1.0,), is_regions=False)
    maps.observe(Part(logits, 2, 0, 6, tells=True))
    found = maps.restore(placement)
    assert np.argwhere(found["entropy"] > 0.99).tolist() == [[i, j, 2] for i in (2, 3) for j in (1, 2)]
    assert found["disagreement"][1:6].min() == 0.25 and not found["disagreement"][[0, 6]].any()


def test_without_members_the_map_of_disagreement_is_empty():
    maps = Maps(SHAPE, (1.0,), is_regions=False)
    maps.observe(Whole(make_logits()))
    grid = Geometry.of_spacing(SHAPE, (1.0, 2.0, 3.0))
    assert not maps.restore(Placement(grid, grid, (0, 0, 0), SHAPE, grid))["disagreement"].any()


def test_a_band_reaches_as_far_in_mm_along_every_axis():
    mask = np.zeros((7, 7, 7), bool)
    mask[3, 3, 3] = True
    assert widen(mask, (2, 1, 0)).sum() == 5 * 3 * 1


def test_a_sample_holds_all_foreground_and_some_of_the_rest():
    classes = np.zeros((40, 20, 20), np.uint8)
    classes[20, 10, 10] = 1
    logits = torch.zeros((2, 40, 20, 20))
    logits[0] = 5.0
    logits[1, 2, 3, 4] = 9.0  # predicted far away
    sampler = Sampler(classes, (5.0, 5.0, 5.0), 2)
    sampler.observe(Whole(logits))
    found, truth = sampler.sample()
    assert len(found) == 27 + 1 + FAR and truth[:, 1].sum() == 1
    assert (found[:, 1] == 9).sum() == 1


def test_a_sample_does_not_depend_on_slabs_and_is_bounded():
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 3, (12, 12, 12)).astype(np.uint8)
    logits = torch.from_numpy(rng.normal(0, 2, (3, 12, 12, 12)).astype(np.float32))
    samples = []
    for cuts in ((0, 12), (0, 5, 12)):
        sampler = Sampler(classes, (1.0, 1.0, 9.0), 3)
        for start, stop in pairwise(cuts):
            sampler.observe(Part(logits, 1, start, stop))
        samples.append(sampler.sample())
    assert len(samples[0][0]) == NEAR
    assert all(np.array_equal(*pair) for pair in zip(*samples, strict=True))


def test_of_regions_the_truth_says_each():
    classes = np.array([[[0, 1, 2]]], np.uint8)
    sampler = Sampler(classes, (1.0, 1.0, 1.0), 2, [(1, 2), (2,)])
    sampler.observe(Whole(torch.zeros((2, 1, 1, 3))))
    truth = sampler.sample()[1]
    assert sorted(truth.tolist()) == [[False, False], [True, False], [True, True]]
