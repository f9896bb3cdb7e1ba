"""What every loss promises; a new line in LOSSES is tested at once."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch
from torch import Tensor

from medseg.losses import LOSSES, deep_supervised

CLASSES = 3
SHAPES = {2: (6, 5), 3: (3, 6, 5)}
IGNORED = 255

every_loss = pytest.mark.parametrize("name", LOSSES)
every_dims = pytest.mark.parametrize("dims", [2, 3])


def draw(dims: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, CLASSES, *SHAPES[dims], generator=generator)
    return logits, torch.randint(0, CLASSES, (batch, *SHAPES[dims]), generator=generator)


def predict(label: Tensor, confidence: float) -> Tensor:
    return confidence * torch.nn.functional.one_hot(label, CLASSES).movedim(-1, 1).float()


def value_and_gradient(loss, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, label)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


@every_loss
def test_two_positional_arguments_and_the_rest_are_options(name):
    parameters = list(inspect.signature(LOSSES[name]).parameters.values())
    assert [p.kind for p in parameters[:2]] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[2:])


@every_loss
@every_dims
def test_value_is_a_finite_positive_scalar(name, dims):
    value = LOSSES[name](*draw(dims))
    assert value.shape == ()
    assert value.isfinite()
    assert value > 0


@every_loss
@every_dims
def test_gradient_is_finite_and_reaches_every_logit(name, dims):
    _, gradient = value_and_gradient(LOSSES[name], *draw(dims))
    assert gradient.isfinite().all()
    assert (gradient != 0).all()


@every_loss
def test_gradient_agrees_with_finite_differences(name):
    logits, label = draw(2, batch=1)
    label[0, 0] = IGNORED
    leaf = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(LOSSES[name], (leaf, label))


@every_loss
@every_dims
def test_perfect_prediction_costs_almost_nothing(name, dims):
    _, label = draw(dims)
    assert LOSSES[name](predict(label, 30), label) < 1e-4


@every_loss
def test_more_mistakes_cost_more(name):
    _, label = draw()
    values = []
    for wrong in (0, 5, 20):
        mistaken = label.clone()
        mistaken.view(-1)[:wrong] = (mistaken.view(-1)[:wrong] + 1) % CLASSES
        values.append(LOSSES[name](predict(mistaken, 5), label).item())
    assert values == sorted(set(values))


@every_loss
def test_logits_under_ignored_voxels_change_neither_value_nor_gradient(name):
    logits, label = draw()
    label[:, 0] = IGNORED
    value, gradient = value_and_gradient(LOSSES[name], logits, label)
    other = logits.clone()
    other[:, :, 0] = 9 * torch.randn(other[:, :, 0].shape)
    other_value, other_gradient = value_and_gradient(LOSSES[name], other, label)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)


@every_loss
def test_ignored_voxels_count_as_if_they_were_not_there(name):
    logits, label = draw()
    label[:, 0] = IGNORED
    without, _ = value_and_gradient(LOSSES[name], logits[:, :, 1:], label[:, 1:])
    value, gradient = value_and_gradient(LOSSES[name], logits, label)
    assert value.item() == pytest.approx(without.item(), rel=1e-6)
    assert (gradient[:, :, 0] == 0).all()


@every_loss
@pytest.mark.parametrize("ignored", [-1, 0, 2])
def test_any_label_can_be_the_ignored_one(name, ignored):
    logits, label = draw()
    marked = torch.where(label == 2, ignored, label)
    expected = LOSSES[name](logits, torch.where(marked == ignored, IGNORED, marked))
    assert torch.equal(LOSSES[name](logits, marked, ignore_index=ignored), expected)


@every_loss
@pytest.mark.parametrize("class_weights", [None, [1, 2, 3]])
def test_all_ignored_batch_costs_zero_with_zero_gradient(name, class_weights):
    logits, label = draw()
    loss = partial(LOSSES[name], class_weights=class_weights)
    value, gradient = value_and_gradient(loss, logits, torch.full_like(label, IGNORED))
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_all_ignored_sample_does_not_change_the_mean(name):
    logits, label = draw()
    label[1] = IGNORED
    assert LOSSES[name](logits, label).item() == pytest.approx(
        LOSSES[name](logits[:1], label[:1]).item(), rel=1e-6
    )


@every_loss
def test_absent_class_gives_a_finite_value_and_gradient(name):
    logits, label = draw()
    value, gradient = value_and_gradient(LOSSES[name], logits, torch.zeros_like(label))
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_confident_mistakes_stay_finite(name, scale):
    logits, label = draw()
    value, gradient = value_and_gradient(LOSSES[name], scale * logits, label)
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_bf16_logits_give_a_float32_loss_and_a_bf16_gradient(name):
    logits, label = draw()
    value, gradient = value_and_gradient(LOSSES[name], logits.bfloat16(), label)
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    assert value.item() == pytest.approx(LOSSES[name](logits, label).item(), rel=2e-2)


@every_loss
def test_autocast_does_not_change_the_value(name):
    logits, label = draw()
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name](logits, label)
    assert torch.equal(value, LOSSES[name](logits, label))


@every_loss
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_every_integer_type_of_label_is_the_same(name, dtype):
    logits, label = draw()
    label[:, 0] = IGNORED
    assert torch.equal(LOSSES[name](logits, label.to(dtype)), LOSSES[name](logits, label))


@every_loss
def test_equal_class_weights_of_any_size_change_nothing(name):
    logits, label = draw()
    value = LOSSES[name](logits, label, class_weights=[7.0] * CLASSES)
    assert value.item() == pytest.approx(LOSSES[name](logits, label).item(), rel=1e-6)


@every_loss
def test_class_weights_shift_the_loss_towards_the_heavy_class(name):
    logits, label = draw()
    logits[:, 2] -= 3  # class 2 is nearly never predicted
    light, heavy = (LOSSES[name](logits, label, class_weights=[1, 1, w]) for w in (0.1, 10))
    assert light < heavy


@every_loss
def test_label_with_a_channel_axis_is_refused_with_both_shapes(name):
    logits, label = draw()
    with pytest.raises(ValueError, match=r"\(2, 3, 3, 6, 5\) and label \(2, 1, 3, 6, 5\)"):
        LOSSES[name](logits, label[:, None])


@every_loss
def test_deep_supervision_takes_a_list(name):
    logits, label = draw()
    loss = deep_supervised(partial(LOSSES[name], ignore_index=IGNORED))
    assert loss([logits, logits[:, :, ::2, ::2, ::2]], label).isfinite()
