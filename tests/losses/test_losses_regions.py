"""Heads of overlapping regions: every loss becomes one of binary problems."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from medseg.losses import LOSSES, deep_supervised, per_region

WHOLE_AND_CORE = [(1, 2), (2,)]


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 4, 6, generator=generator), torch.randint(0, 3, (2, 4, 6), generator=generator)


def test_region_of_its_own_is_a_sigmoid_with_binary_cross_entropy():
    logits, label = draw()
    expected = functional.binary_cross_entropy_with_logits(logits[:, 0], (label > 0).float())
    loss = per_region(LOSSES["cross_entropy"], [(1, 2)])
    assert loss(logits[:, :1], label).item() == pytest.approx(expected.item())


def test_regions_overlap_and_count_the_same():
    logits, label = draw()
    loss = per_region(LOSSES["cross_entropy"], WHOLE_AND_CORE)
    targets = torch.stack([label > 0, label == 2], 1).float()
    assert loss(logits, label).item() == pytest.approx(
        functional.binary_cross_entropy_with_logits(logits, targets).item()
    )


def test_ignored_voxels_are_in_no_region_and_outside_none():
    logits, label = draw()
    label[:, 0] = 255
    loss = per_region(LOSSES["bce_dice"], WHOLE_AND_CORE)
    assert loss(logits, label).item() == pytest.approx(loss(logits[:, :, 1:], label[:, 1:]).item())


@pytest.mark.parametrize("name", LOSSES)
def test_right_regions_cost_almost_nothing(name):
    _, label = draw()
    logits = 60.0 * torch.stack([label > 0, label == 2], 1) - 30
    assert per_region(LOSSES[name], WHOLE_AND_CORE)(logits, label) < 1e-4


def test_deep_supervision_goes_around_regions():
    logits, label = draw()
    loss = deep_supervised(per_region(LOSSES["dice_focal"], WHOLE_AND_CORE))
    assert loss([logits, logits[:, :, ::2, ::2]], label).isfinite()


def test_head_of_another_number_of_channels_is_a_bug():
    logits, label = draw()
    with pytest.raises(ValueError, match="2 output channels for 1 regions"):
        per_region(LOSSES["dice"], [(1,)])(logits, label)
