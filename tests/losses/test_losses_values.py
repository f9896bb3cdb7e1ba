"""Values one can check by hand, and MONAI and torch as peers where the definitions coincide."""

from __future__ import annotations

from math import log

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss, FocalLoss
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.losses import LOSSES
from medseg.losses.overlap import soft_dice

# Foreground probabilities; the true foreground is the square at the top left and the 0.2 beside it.
PREDICTED = [[0.9, 0.8, 0.1, 0.0], [0.7, 0.6, 0.2, 0.1], [0.1, 0.3, 0.1, 0.0], [0.0, 0.1, 0.0, 0.0]]
FIVE_PIXELS = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def logits_of(*probabilities: list) -> Tensor:
    """Return (1, C, *) logits whose softmax is the given probabilities of class 0, 1, ..."""
    return torch.tensor(probabilities, dtype=torch.float64).clamp(1e-15, 1)[None].log()


def two_classes(foreground: list) -> Tensor:
    return logits_of((1 - torch.tensor(foreground, dtype=torch.float64)).tolist(), foreground)


def random_batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 6, 5), torch.randint(0, 3, (2, 4, 6, 5))


def test_soft_dice_of_the_worked_example_is_2_times_3_2_over_9():
    # overlap 0.9 + 0.8 + 0.7 + 0.6 + 0.2 = 3.2, predicted 4.0, true 5
    dice = soft_dice(torch.tensor(PREDICTED).flatten(), torch.tensor(FIVE_PIXELS).flatten() == 1)
    assert dice.item() == pytest.approx(0.711, abs=5e-4)


def test_soft_dice_takes_many_structures_at_once():
    probabilities = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    target = torch.tensor([[True, False], [False, False]])  # 1 / 2, and nothing where nothing is
    assert soft_dice(probabilities, target).tolist() == pytest.approx([0.5, 1], abs=1e-4)


def test_dice_loss_of_the_worked_example_is_what_its_function_of_probabilities_leaves():
    loss = LOSSES["dice"](two_classes(PREDICTED), torch.tensor([FIVE_PIXELS]))
    dice = soft_dice(torch.tensor(PREDICTED).flatten(), torch.tensor(FIVE_PIXELS).flatten() == 1)
    assert 1 - loss.item() == pytest.approx(dice.item(), abs=1e-6)


def test_dice_of_background_is_left_out_by_default():
    logits, label = two_classes(PREDICTED), torch.tensor([FIVE_PIXELS])
    # background: overlap 16 - 4 - 5 + 3.2 = 10.2, predicted 12, true 11 -> 20.4 / 23
    both = LOSSES["dice"](logits, label, include_background=True)
    assert 1 - both.item() == pytest.approx((6.4 / 9 + 20.4 / 23) / 2, abs=1e-6)


def test_dice_ignores_pixels_by_hand():
    label = torch.tensor([FIVE_PIXELS])
    label[0, 0, 0] = 255  # leaves overlap 2.3, predicted 3.1, true 4
    loss = LOSSES["dice"](two_classes(PREDICTED), label)
    assert 1 - loss.item() == pytest.approx(4.6 / 7.1, abs=1e-6)


def test_ignored_pixel_is_not_background():
    label = torch.tensor([FIVE_PIXELS])
    label[0, 0, 0] = 255  # background: overlap 10.2, predicted 12 - 0.1, true 11
    loss = LOSSES["dice"](two_classes(PREDICTED), label, include_background=True)
    assert 1 - loss.item() == pytest.approx((4.6 / 7.1 + 20.4 / 22.9) / 2, abs=1e-6)


def test_smooth_enters_numerator_and_denominator():
    loss = LOSSES["dice"](two_classes(PREDICTED), torch.tensor([FIVE_PIXELS]), smooth=1.0)
    assert 1 - loss.item() == pytest.approx(7.4 / 10, abs=1e-9)


def test_batch_dice_sums_before_it_divides():
    logits = torch.cat([two_classes([0.8, 0.4]), two_classes([0.5, 0.1])])
    label = torch.tensor([[1, 0], [0, 0]])
    each = LOSSES["dice"](logits, label).item()  # Dice 1.6 / 2.2 and 0 / 0.6
    together = LOSSES["dice"](logits, label, batch_dice=True).item()  # 1.6 / 2.8
    assert each == pytest.approx(1 - (1.6 / 2.2) / 2, abs=1e-4)
    assert together == pytest.approx(1 - 1.6 / 2.8, abs=1e-4)


def test_class_weights_make_a_weighted_mean_of_dice():
    logits = logits_of([0.2, 0.2], [0.5, 0.2], [0.3, 0.6])
    label = torch.tensor([[1, 2]])  # Dice of 1: 1.0 / 1.7; of 2: 1.2 / 1.9
    loss = LOSSES["dice"](logits, label, class_weights=[5, 1, 3])
    assert 1 - loss.item() == pytest.approx((1.0 / 1.7 + 3 * 1.2 / 1.9) / 4, abs=1e-4)


def test_class_neither_present_nor_predicted_costs_nothing():
    logits = logits_of([0.0, 1.0], [1.0, 0.0], [0.0, 0.0])
    assert LOSSES["dice"](logits, torch.tensor([[1, 0]])).item() == pytest.approx(0, abs=1e-9)


def test_cross_entropy_by_hand():
    loss = LOSSES["cross_entropy"](two_classes([0.8, 0.4]), torch.tensor([[1, 0]]))
    assert loss.item() == pytest.approx(-(log(0.8) + log(0.6)) / 2)


def test_cross_entropy_divides_by_the_weights_of_valid_voxels():
    logits, label = two_classes([0.8, 0.4, 0.9]), torch.tensor([[1, 0, 255]])
    loss = LOSSES["cross_entropy"](logits, label, class_weights=[1, 3])
    assert loss.item() == pytest.approx(-(3 * log(0.8) + log(0.6)) / 4)


def test_focal_by_hand():
    # (1 - 0.8)^2 and (1 - 0.6)^2 shrink the two terms
    loss = LOSSES["focal"](two_classes([0.8, 0.4]), torch.tensor([[1, 0]]))
    assert loss.item() == pytest.approx(-(0.04 * log(0.8) + 0.16 * log(0.6)) / 2)


def test_focal_is_a_mean_over_voxels_whatever_the_number_of_classes():
    two = LOSSES["focal"](logits_of([0.4], [0.6]), torch.tensor([[1]]))
    three = LOSSES["focal"](logits_of([0.3], [0.6], [0.1]), torch.tensor([[1]]))
    assert two.item() == pytest.approx(three.item())


def test_focal_without_focusing_is_cross_entropy():
    batch = random_batch()
    assert LOSSES["focal"](*batch, gamma=0.0).item() == pytest.approx(LOSSES["cross_entropy"](*batch).item())


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_focal_gradient_of_certain_voxels_is_finite(gamma):
    logits = torch.tensor([[[200.0, -200.0], [0.0, 0.0]]], requires_grad=True)
    LOSSES["focal"](logits, torch.tensor([[0, 1]]), gamma=gamma).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("name", "second"), [("dice_ce", "cross_entropy"), ("dice_focal", "focal")])
def test_compound_loss_is_the_weighted_sum_of_its_terms(name, second):
    batch = random_batch()
    weights = {"dice_weight": 0.3, f"{second.replace('cross_entropy', 'ce')}_weight": 2.0}
    expected = 0.3 * LOSSES["dice"](*batch) + 2 * LOSSES[second](*batch)
    assert LOSSES[name](*batch, **weights).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("include_background", [False, True])
def test_dice_equals_monai(batch_dice, include_background):
    logits, label = random_batch()
    options = {"include_background": include_background, "softmax": True, "to_onehot_y": True}
    peer = DiceLoss(**options, batch=batch_dice, smooth_nr=1e-5, smooth_dr=1e-5)
    ours = LOSSES["dice"](logits, label, batch_dice=batch_dice, include_background=include_background)
    assert ours.item() == pytest.approx(peer(logits, label[:, None]).item(), rel=1e-5)


def test_dice_ce_equals_monai():
    logits, label = random_batch()
    peer = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True)
    ours = LOSSES["dice_ce"](logits, label)
    assert ours.item() == pytest.approx(peer(logits, label[:, None]).item(), rel=1e-5)


def test_focal_equals_monai_with_its_mean_over_classes_undone():
    logits, label = random_batch()
    peer = FocalLoss(gamma=2.0, use_softmax=True, to_onehot_y=True)
    ours = LOSSES["focal"](logits, label)
    assert ours.item() == pytest.approx(3 * peer(logits, label[:, None]).item(), rel=1e-5)


def test_cross_entropy_equals_torch_with_weights_and_ignored_voxels():
    logits, label = random_batch()
    label[0, :2] = 255
    weights = [0.5, 1.0, 4.0]
    peer = torch.nn.functional.cross_entropy(logits, label, torch.tensor(weights), ignore_index=255)
    ours = LOSSES["cross_entropy"](logits, label, class_weights=weights)
    assert ours.item() == pytest.approx(peer.item(), rel=1e-6)


@pytest.mark.parametrize("weights", [[1, 2], [1, 1, -1], [0, 0, 0]])
def test_class_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ConfigError) as raised:
        LOSSES["dice_focal"](*random_batch(), class_weights=weights)
    assert raised.value.code == "CLASS_WEIGHTS"


def test_dice_without_smoothing_is_refused():
    with pytest.raises(ConfigError) as raised:
        LOSSES["dice"](*random_batch(), smooth=0)
    assert raised.value.code == "SMOOTH"
