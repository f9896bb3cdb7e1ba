"""Losses that look at the shape of structures: components, borders, skeletons."""

from __future__ import annotations

from math import log

import pytest
import torch
from monai.losses.cldice import soft_skel
from torch import Tensor

from medseg.losses import LOSSES
from medseg.losses.cldice import skeletonize
from medseg.losses.distances import border_distances, nearest_components


def logits_of(foreground: list) -> Tensor:
    """Return (1, 2, *) logits whose sigmoid is the given probabilities."""
    p = torch.tensor(foreground, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    return torch.stack([torch.zeros_like(p), (p / (1 - p)).log()])[None]


def distances(inside: list, valid: list | None = None) -> list[float]:
    """Border distances of a row of pixels."""
    mask = torch.tensor([inside]) == 1
    known = torch.ones_like(mask) if valid is None else torch.tensor([valid]) == 1
    return border_distances(mask, known, (1, len(inside), 1))[0].tolist()


def test_border_lies_between_two_voxels():
    assert distances([0, 0, 1, 1, 1, 0]) == [1.5, 0.5, 0.5, 1.5, 0.5, 0.5]


def test_structure_that_is_nowhere_or_everywhere_has_no_border():
    assert distances([0, 0, 0]) == [0, 0, 0]
    assert distances([1, 1, 1]) == [0, 0, 0]


def test_border_with_ignored_voxels_is_not_known():
    assert distances([0, 1, 1, 0, 0], [1, 1, 1, 0, 0]) == [0.5, 0.5, 1.5, 0, 0]


def test_voxels_belong_to_the_nearest_component_of_their_sample():
    rows = torch.tensor([[1, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]) == 1
    cells, count = nearest_components(rows, (3, 6, 1))
    assert count == 3
    assert cells[0, [0, 1, 3, 4, 5]].tolist() == [0, 0, 1, 1, 1]  # pixel 2 is as near to both
    assert cells[1].tolist() == [-1] * 6
    assert cells[2].tolist() == [2] * 6


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 2, 1, 2), (1, 1, 2, 2)])
def test_voxels_that_share_a_corner_are_one_component(shape):
    assert nearest_components(torch.tensor([[1, 0, 0, 1]]) == 1, shape)[1] == 1


def test_small_component_counts_as_much_as_a_large_one():
    # 1 pixel missed, 9 found: as components half is right, as voxels nine tenths
    label = torch.tensor([[1, 0, 0, 0, *[1] * 9]])[..., None]
    missed = logits_of([0.0] * 4 + [1.0] * 9)[..., None]
    options = {"ce_weight": 0.0, "component_weight": 1.0}
    loss = LOSSES["component_dice_ce"](missed, label, **options)
    assert loss.item() == pytest.approx(1 - 18 / 19 + 0.5, abs=1e-4)


def test_cross_entropy_of_a_component_is_a_mean_over_its_cell():
    label = torch.tensor([[1, 0, 0, 0, 0, 1]])[..., None]
    p = [0.5, 0.5, 0.5, 0.2, 0.2, 0.8]
    loss = LOSSES["component_dice_ce"](logits_of(p)[..., None], label, dice_weight=0.0)
    mean = -(log(0.5) + log(0.8)) / 2  # of both cells; the same over all voxels
    assert loss.item() == pytest.approx(2 * mean, abs=1e-6)


def test_patch_without_a_component_costs_dice_and_cross_entropy_alone():
    logits, label = logits_of([0.2, 0.4])[..., None], torch.zeros(1, 2, 1, dtype=torch.long)
    expected = LOSSES["dice_ce"](logits, label)
    assert LOSSES["component_dice_ce"](logits, label).item() == pytest.approx(expected.item())


def test_boundary_costs_distance_times_error():
    label = torch.tensor([[0, 0, 1, 1]])[..., None]
    logits = logits_of([0.4, 0.0, 1.0, 0.5])[..., None]  # distances 1.5, 0.5, 0.5, 1.5
    loss = LOSSES["boundary"](logits, label, dice_weight=0.0, boundary_weight=2.0)
    assert loss.item() == pytest.approx(2 * (1.5 * 0.4 + 1.5 * 0.5) / 4, abs=1e-6)


def test_boundary_gradient_is_the_signed_distance():
    label = torch.tensor([[0, 0, 1, 1]])[..., None]
    logits = torch.zeros(1, 2, 4, 1, requires_grad=True)
    LOSSES["boundary"](logits, label, dice_weight=0.0, boundary_weight=1.0).backward()
    # d p / d z = 1/4 at p = 1/2, over 4 voxels
    assert (16 * logits.grad[0, 1, :, 0]).tolist() == pytest.approx([1.5, 0.5, -0.5, -1.5])


def test_hausdorff_costs_squared_error_times_squared_distances_to_both_borders():
    label = torch.tensor([[0, 0, 1, 1]])[..., None]
    logits = logits_of([0.0, 0.6, 1.0, 1.0])[..., None]  # pixel 1: 0.5 from either border
    loss = LOSSES["hausdorff_dt"](logits, label, dice_weight=0.0, hausdorff_weight=1.0)
    assert loss.item() == pytest.approx(0.36 * (0.25 + 0.25) / 4, abs=1e-6)


def test_far_mistake_costs_more_hausdorff_than_a_near_one():
    label = torch.tensor([[0, 0, 0, 0, 0, 1]])[..., None]
    near, far = (
        LOSSES["hausdorff_dt"](logits_of(p)[..., None], label, dice_weight=0.0)
        for p in ([0, 0, 0, 0, 0.9, 0.9], [0.9, 0, 0, 0, 0, 0.9])
    )
    assert far > 10 * near


def test_skeleton_of_a_bar_is_its_middle_line():
    bar = torch.zeros(1, 5, 9)
    bar[0, 1:4, 1:8] = 1
    skeleton = skeletonize(bar, torch.ones_like(bar) == 1, 3)[0]
    assert skeleton[2].tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]
    assert skeleton[[0, 4]].sum() == 0


@pytest.mark.parametrize("shape", [(9, 8), (7, 6, 5)])
def test_skeleton_equals_monai(shape):
    p = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    ours = skeletonize(p, torch.ones_like(p) == 1, 3)
    assert torch.allclose(ours, soft_skel(p[:, None], 3)[:, 0], atol=1e-6)


def test_ignored_voxels_do_not_erode_a_skeleton():
    bar = torch.zeros(1, 5, 9)
    bar[0, 1:4, 1:8] = 1
    valid = torch.ones_like(bar) == 1
    valid[0, :, 5:] = False
    assert torch.equal(skeletonize(bar, valid, 3)[0, :, :5], skeletonize(bar[..., :5], valid[..., :5], 3)[0])


def test_broken_tube_costs_more_cldice_than_a_thin_one():
    tube = torch.zeros(1, 5, 12, dtype=torch.long)
    tube[0, 1:4] = 1
    thin, broken = tube.clone(), tube.clone()
    thin[0, 1, :9] = 0
    broken[0, 1:4, 5:8] = 0  # nine pixels are gone in each
    values = [
        LOSSES["cldice"](logits_of(mask[0].tolist()), tube, cldice_share=1.0).item()
        for mask in (thin, broken)
    ]
    assert values[0] < values[1] / 2


def test_cldice_of_share_0_is_dice():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 6, 5), torch.randint(0, 3, (2, 6, 5))
    assert torch.equal(LOSSES["cldice"](logits, label, cldice_share=0.0), LOSSES["dice"](logits, label))
