"""FCN: skips of Long et al. 2015, and the dilated form."""

from __future__ import annotations

import pytest
import torch

from medseg.core.errors import ConfigError
from medseg.models import MODELS
from medseg.models.fcn_heads import make_bilinear
from tests.models.atrous_grids import (
    THICK_SLICES,
    count,
    even_grid,
    export_difference,
    overfit,
    slice_difference,
    traced,
)

RESNET_50 = 23_508_032
FORMS = ("32s", "16s", "8s", "dilated")


@pytest.mark.parametrize(("supervised", "weights"), [(False, 32_957_013), (True, 35_322_218)])
def test_dilated_fcn_on_resnet_50_has_the_published_weights(supervised, weights):
    options = {"form": "dilated", "size": "large", "deep_supervision": supervised}
    assert count("fcn", even_grid(2), 3, 21, **options) == weights


@pytest.mark.parametrize(
    ("form", "head"),
    [
        ("32s", 2048 * 21 + 21),
        ("16s", 2048 * 21 + 21 + 21 * 21 * 4 * 4 + 1024 * 21 + 21),
        ("8s", 2048 * 21 + 21 + 21 * 21 * 4 * 4 + 1024 * 21 + 21 + 21 * 21 * 4 * 4 + 512 * 21 + 21),
    ],
)
def test_weights_of_the_skips_add_up_layer_by_layer(form, head):
    assert count("fcn", even_grid(2), 3, 21, form=form, size="large") == RESNET_50 + head


@pytest.mark.parametrize(("form", "stride"), [("32s", 32), ("16s", 16), ("8s", 8), ("dilated", 8)])
def test_scores_come_at_the_stride_of_the_name(form, stride):
    net = MODELS["fcn"](1, 2, even_grid(2), size="nano", form=form).eval()
    shapes = []
    net.net.head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    net(torch.randn(1, 1, 64, 96))
    assert shapes == [(1, 2, 64 // stride, 96 // stride)]


@torch.no_grad()
def test_enlarging_begins_as_linear_interpolation():
    image = torch.randn(1, 3, 4, 5, 6)
    enlarged = make_bilinear(3, 3, (1, 2, 2))(image)
    expected = torch.nn.functional.interpolate(image, size=(4, 10, 12), mode="trilinear")
    assert torch.allclose(enlarged[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-6)


@torch.no_grad()
def test_enlarging_by_three_is_a_tent_of_width_five():
    line = torch.zeros(1, 1, 1, 3)
    line[..., 1] = 3
    enlarged = make_bilinear(2, 1, (1, 3))(line)
    assert torch.allclose(enlarged.flatten(), torch.tensor([0.0, 0, 1, 2, 3, 2, 1, 0, 0]))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_keeps_the_size_of_thick_slices(form):
    net = MODELS["fcn"](2, 3, THICK_SLICES, size="nano", form=form).eval()
    assert net(torch.randn(1, 2, 5, 33, 20)).shape == (1, 3, 5, 33, 20)


@pytest.mark.parametrize("form", FORMS)
def test_supervision_adds_the_scores_of_the_third_stage_in_training_only(form):
    net = MODELS["fcn"](1, 2, even_grid(2, 4, 32), size="nano", form=form, deep_supervision=True)
    image = torch.randn(1, 1, 32, 32)
    third = 8 if form == "dilated" else 4
    assert [tuple(level.shape[2:]) for level in net.train()(image)] == [(32, 32), (third, third)]
    assert isinstance(net.eval()(image), torch.Tensor)


@pytest.mark.parametrize("form", ["8s", "dilated"])
def test_depth_1_kernels_give_the_2d_network_slice_by_slice(form):
    assert slice_difference("fcn", {"form": form}, edge=32) < 1e-5


def test_two_cases_are_overfitted():
    assert overfit("fcn", 50) > 0.98


@traced
def test_openvino_gives_the_same_logits():
    net = MODELS["fcn"](1, 2, even_grid(3, 4, 16), size="nano")
    assert export_difference(net, torch.randn(1, 1, 13, 11, 16)) < 1e-4


def test_an_unknown_form_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="`8x`") as raised:
        MODELS["fcn"](1, 2, even_grid(2), form="8x")
    assert "`8s`" in raised.value.hint


def test_an_unknown_size_is_refused():
    with pytest.raises(ConfigError, match="`huge`"):
        MODELS["fcn"](1, 2, even_grid(2), size="huge")
