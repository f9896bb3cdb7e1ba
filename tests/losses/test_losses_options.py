"""Losses beyond Dice, cross-entropy and focal: values by hand, peers where the definitions coincide."""

from __future__ import annotations

from math import log

import pytest
import torch
from monai.losses import GeneralizedDiceLoss, TverskyLoss
from torch import Tensor
from torch.nn import functional

from medseg.core.errors import ConfigError
from medseg.losses import LOSSES


def logits_of(*foreground: list) -> Tensor:
    """Return (1, C, *) logits whose softmax is the given probabilities of class 1, 2, ..."""
    p = torch.tensor(foreground, dtype=torch.float64)
    return torch.cat([1 - p.sum(0, keepdim=True), p]).clamp(1e-15, 1)[None].log()


def random_batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 6, 5), torch.randint(0, 3, (2, 4, 6, 5))


def test_topk_counts_the_hardest_share_of_each_sample_rounded_up():
    logits = torch.cat([logits_of([0.9, 0.8, 0.7, 0.4, 0.6]), logits_of([0.9, 0.9, 0.9, 0.9, 0.2])])
    label = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 255]])  # ceil(2.5) of 5, and 2 of 4
    loss = LOSSES["dice_topk"](logits, label, percent=50, dice_weight=0)
    assert loss.item() == pytest.approx(-(log(0.4) + log(0.6) + log(0.7) + 2 * log(0.9)) / 5)


def test_topk_of_all_voxels_is_dice_ce():
    batch = random_batch()
    weights = [1, 2, 3]
    everything = LOSSES["dice_topk"](*batch, percent=100, class_weights=weights)
    assert everything.item() == pytest.approx(LOSSES["dice_ce"](*batch, class_weights=weights).item())


def test_topk_chooses_by_weighted_loss():
    logits, label = logits_of([0.4, 0.5]), torch.tensor([[1, 0]])  # -log 0.4 > -log 0.5, unless weighted
    loss = LOSSES["dice_topk"](logits, label, percent=50, dice_weight=0, class_weights=[5, 1])
    assert loss.item() == pytest.approx(-log(0.5))


@pytest.mark.parametrize("percent", [0, 101])
def test_impossible_share_of_hard_voxels_is_refused(percent):
    with pytest.raises(ConfigError) as raised:
        LOSSES["dice_topk"](*random_batch(), percent=percent)
    assert raised.value.code == "TOPK_PERCENT"


def test_tversky_by_hand():
    # tp 0.8, fp 0.4, fn 0.2
    loss = LOSSES["tversky"](logits_of([0.8, 0.4]), torch.tensor([[1, 0]]))
    assert 1 - loss.item() == pytest.approx(0.8 / (0.8 + 0.3 * 0.4 + 0.7 * 0.2), abs=1e-5)


def test_tversky_with_halves_is_dice():
    batch = random_batch()
    halves = LOSSES["tversky"](*batch, fp_weight=0.5, fn_weight=0.5)
    assert halves.item() == pytest.approx(LOSSES["dice"](*batch).item(), abs=1e-6)


def test_tversky_equals_monai():
    logits, label = random_batch()
    peer = TverskyLoss(False, to_onehot_y=True, softmax=True, alpha=0.3, beta=0.7)
    assert LOSSES["tversky"](logits, label).item() == pytest.approx(
        peer(logits, label[:, None]).item(), abs=1e-6
    )


def test_focal_tversky_is_a_power_of_the_tversky_loss_of_each_class():
    batch = logits_of([0.8, 0.4]), torch.tensor([[1, 0]])
    expected = LOSSES["tversky"](*batch).item() ** 0.75
    assert LOSSES["focal_tversky"](*batch).item() == pytest.approx(expected)


def test_focal_tversky_of_a_perfect_prediction_is_0_with_a_finite_slope():
    logits = torch.tensor([[[-200.0, 200.0], [200.0, -200.0]]], requires_grad=True)
    loss = LOSSES["focal_tversky"](logits, torch.tensor([[1, 0]]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.isfinite().all()


def test_generalized_dice_by_hand():
    # class 0: overlap 0.9 + 0.8 + 0.7 + 0.6 = 3, sizes 4 + 3.5; class 1: overlap 0.5, sizes 1 + 1.5
    loss = LOSSES["generalized_dice"](logits_of([0.1, 0.2, 0.3, 0.4, 0.5]), torch.tensor([[0, 0, 0, 0, 1]]))
    assert 1 - loss.item() == pytest.approx((2 * 3 / 16 + 2 * 0.5) / (7.5 / 16 + 2.5), abs=1e-5)


def test_absent_class_weighs_as_the_rarest_that_is_present():
    # class 2 is absent and predicted 0.1 + 0.2; class 1 has 1 voxel, class 0 has 1
    loss = LOSSES["generalized_dice"](logits_of([0.2, 0.7], [0.1, 0.2]), torch.tensor([[0, 1]]))
    assert 1 - loss.item() == pytest.approx(2 * (0.7 + 0.7) / (1.8 + 1.9 + 0.3), abs=1e-5)


def test_generalized_dice_equals_monai():
    logits, label = random_batch()
    peer = GeneralizedDiceLoss(to_onehot_y=True, softmax=True, smooth_nr=0, smooth_dr=0)
    ours = LOSSES["generalized_dice"](logits, label)
    assert ours.item() == pytest.approx(peer(logits, label[:, None]).item(), abs=1e-5)


def test_class_weights_multiply_those_of_generalized_dice():
    batch = logits_of([0.2, 0.7]), torch.tensor([[0, 1]])
    loss = LOSSES["generalized_dice"](*batch, class_weights=[2, 6])
    # overlaps 0.8 and 0.7, sizes 1.1 + 1 and 0.9 + 1
    assert 1 - loss.item() == pytest.approx(2 * (0.8 + 3 * 0.7) / (2.1 + 3 * 1.9), abs=1e-5)


def test_bce_dice_of_two_classes_is_dice_ce():
    logits, label = random_batch()
    logits, label = logits[:, :2], label.clamp_max(1)
    label[0, 0] = 255
    options = {"class_weights": [1, 3], "batch_dice": True, "dice_weight": 0.3, "label_smoothing": 0.1}
    expected = LOSSES["dice_ce"](logits, label, **options)
    assert LOSSES["bce_dice"](logits, label, **options).item() == pytest.approx(expected.item())


def test_bce_asks_each_class_against_the_rest():
    logits, label = logits_of([0.5], [0.3]), torch.tensor([[1]])
    loss = LOSSES["bce_dice"](logits, label, dice_weight=0)
    assert loss.item() == pytest.approx(-(log(0.5) + log(1 - 0.3)) / 2)


@pytest.mark.parametrize("name", ["cross_entropy", "dice_ce", "dice_topk", "component_dice_ce", "bce_dice"])
def test_label_smoothing_is_0_to_below_1(name):
    for share in (-0.1, 1):
        with pytest.raises(ConfigError) as raised:
            LOSSES[name](*random_batch(), label_smoothing=share)
        assert raised.value.code == "LABEL_SMOOTHING"


@pytest.mark.parametrize("name", ["cross_entropy", "dice_ce", "dice_topk", "component_dice_ce", "bce_dice"])
def test_label_smoothing_makes_certainty_cost(name):
    _, label = random_batch()
    certain = 30 * functional.one_hot(label, 3).movedim(-1, 1).float()
    assert LOSSES[name](certain, label, label_smoothing=0.1) > 1


def test_smoothed_focal_loss_is_a_mixture_of_the_focal_losses_of_all_labels():
    logits, label = torch.randn(2, 3, 4, 3), torch.randint(0, 3, (2, 4, 3))
    every = torch.stack([LOSSES["focal"](logits, torch.full_like(label, c)) for c in range(3)]).mean()
    expected = 0.7 * LOSSES["focal"](logits, label) + 0.3 * every
    torch.testing.assert_close(LOSSES["focal"](logits, label, label_smoothing=0.3), expected)
    both = LOSSES["dice_focal"](logits, label, label_smoothing=0.3, dice_weight=0.0)
    torch.testing.assert_close(both, expected)


def test_label_smoothing_equals_torch_with_ignored_voxels():
    logits, label = random_batch()
    label[0, :2] = 255
    peer = functional.cross_entropy(logits, label, ignore_index=255, label_smoothing=0.2)
    ours = LOSSES["cross_entropy"](logits, label, label_smoothing=0.2)
    assert ours.item() == pytest.approx(peer.item(), rel=1e-6)
