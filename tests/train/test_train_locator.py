"""A locator learns where a phantom's organ is; its threshold and margin come from cases it did not see."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg.inference.locator import find_spans, place_edges
from medseg.inference.windows import Box
from medseg.train import locator as module
from medseg.train.locator import Coarse, choose_margin, draw_sample, measure_excess, train_locator

SPACING_MM = (6.0, 6.0, 6.0)
SHAPE = (20, 16, 12)


def make_case(seed: int) -> Coarse:
    """A bright block of 5 x 4 x 3 voxels somewhere in noise; one voxel of the label is ignored."""
    rng = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    i, j, k = (int(rng.integers(1, n - 6)) for n in SHAPE)
    label[i : i + 5, j : j + 4, k : k + 3] = 1
    image = (rng.normal(0, 0.3, SHAPE) + 2 * label).astype(np.float32)
    edges = place_edges(SHAPE, SPACING_MM, SPACING_MM)
    spans = find_spans(label == 1, edges)
    label[0, 0, 0] = 255
    return Coarse(image[None], label, edges, spans, SHAPE)


def count_in(cases: list[Coarse]):
    def count(index: int, box: Box) -> tuple[int, int]:
        foreground = cases[index].label == 1
        return int(foreground[box].sum()), int(foreground.sum())

    return count


class Fixed(nn.Module):
    """Finds each voxel above 1, but for those in the first `blind` planes."""

    def __init__(self, blind: int = 0) -> None:
        super().__init__()
        self.scale, self.blind = nn.Parameter(torch.tensor(50.0)), blind

    def forward(self, image: Tensor) -> Tensor:
        score = (image - 1) * self.scale
        score[:, :, : self.blind] = -50
        return torch.cat([torch.zeros_like(image), score], dim=1)


def test_a_trained_locator_finds_the_organ_of_cases_it_did_not_see(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_STEPS", 60)
    network, shape = train_locator([make_case(seed) for seed in range(6)], seed=1)
    held_out = [make_case(seed) for seed in (10, 11, 12)]
    choice = choose_margin(network, held_out, SPACING_MM, SPACING_MM, count_in(held_out))
    assert shape == list(SHAPE) and not network.training
    assert choice.recall == 1.0 and choice.share < 0.9 and choice.margin_mm < 40


def test_the_same_seed_gives_the_same_locator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_STEPS", 2)
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other = (train_locator([make_case(0)], seed=3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_samples_are_parts_that_the_network_can_take():
    case, rng = make_case(0), np.random.default_rng(0)
    for _ in range(20):
        image, label = draw_sample([case], rng)
        assert image.shape[1:] == label.shape and image.dtype == np.float32
        assert all(9 <= part <= whole for part, whole in zip(label.shape, SHAPE))


def test_the_margin_is_what_the_worst_case_needs_and_two_coarse_voxels_more():
    cases = [make_case(seed) for seed in range(3)]
    nearest = min(case.spans[0][0] for case in cases if case.spans)
    blind = nearest + 2  # two planes, 12 mm, of the case that lies nearest are not seen
    choice = choose_margin(Fixed(blind), cases, SPACING_MM, SPACING_MM, count_in(cases))
    assert choice.margin_mm == pytest.approx(12 + 12)


def test_recall_is_measured_with_the_margin_that_the_other_cases_need():
    cases = [make_case(0), make_case(0)]
    moved = np.roll(cases[0].image, 8, axis=1), np.roll(cases[0].label, 8, axis=0)
    assert cases[0].spans is not None
    first = cases[0].spans[0][0]
    spans = ((first + 8, first + 13), *cases[0].spans[1:])
    cases[1] = Coarse(*moved, cases[0].edges, spans, SHAPE)
    # Three of five planes of the first are missed; the second needs no margin: two planes are won back.
    choice = choose_margin(Fixed(first + 3), cases, SPACING_MM, SPACING_MM, count_in(cases))
    assert choice.recall == pytest.approx((4 + 5) / 10)


def test_where_nothing_is_located_the_whole_image_counts():
    case = make_case(0)
    choice = choose_margin(Fixed(SHAPE[0]), [case], SPACING_MM, SPACING_MM, count_in([case]))
    assert (choice.recall, choice.share) == (1.0, 1.0)


def test_cases_without_foreground_show_no_recall():
    empty = Coarse(
        np.zeros((1, *SHAPE), np.float32), np.zeros(SHAPE, np.uint8), make_case(0).edges, None, SHAPE
    )
    assert choose_margin(Fixed(), [empty], SPACING_MM, SPACING_MM, lambda index, box: (0, 0)).recall == 0


def test_excess_is_the_farthest_that_the_truth_reaches_beyond():
    found, truth = ((5, 9), (0, 4), (2, 6)), ((3, 9), (0, 5), (3, 6))
    assert measure_excess(found, truth, (1.5, 1.5, 3.0)) == 3.0
    assert measure_excess(truth, truth, (1.5, 1.5, 3.0)) == measure_excess(None, truth, (1, 1, 1)) == 0
