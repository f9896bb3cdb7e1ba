"""DeepLabv3 and DeepLabv3+: the pyramid and the decoder."""

from __future__ import annotations

import pytest
import torch

from medseg.core.errors import ConfigError
from medseg.models import MODELS, Grid
from medseg.models.steps import choose_rates, plan_steps
from tests.models.atrous_grids import (
    THICK_SLICES,
    count,
    even_grid,
    export_difference,
    overfit,
    slice_difference,
    traced,
)

both = pytest.mark.parametrize("name", ["deeplab_v3", "deeplab_v3_plus"])


def sized_grid(*patch: int) -> Grid:
    deep = even_grid(len(patch))
    return Grid(deep.dims, patch, deep.spacing_mm, deep.strides, deep.kernels)


@pytest.mark.parametrize(("supervised", "weights"), [(False, 39_638_869), (True, 42_004_074)])
def test_deeplab_v3_on_resnet_50_has_the_published_weights(supervised, weights):
    assert count("deeplab_v3", even_grid(2), 3, 21, size="large", deep_supervision=supervised) == weights


def test_weights_of_deeplab_v3_plus_add_up_layer_by_layer():
    def block(inner, outer):
        return inner * 9 + inner * outer + 2 * outer  # separable convolution and norm

    pyramid = 2 * (2048 * 256 + 512) + 3 * block(2048, 256) + 5 * 256 * 256 + 512
    low = 256 * 48 + 2 * 48
    decoder = block(256 + 48, 256) + block(256, 256) + 256 * 21 + 21
    assert count("deeplab_v3_plus", even_grid(2), 3, 21, size="large") == 23_508_032 + pyramid + low + decoder


@pytest.mark.parametrize(
    ("patch", "stride", "rates"),
    [
        ((512, 512), 16, [(6, 6), (12, 12), (18, 18)]),
        ((1024, 1024), 16, [(6, 6), (12, 12), (18, 18)]),
        ((512, 512), 8, [(12, 12), (24, 24), (36, 36)]),
        ((256, 128), 16, [(3, 2), (6, 3), (9, 4)]),
        ((32, 48, 32), 4, [(2, 2, 2), (3, 4, 3), (4, 7, 4)]),
        ((32, 64), 16, [(1, 1), (1, 2), (1, 2)]),
    ],
)
def test_rates_keep_the_published_proportion_to_the_map(patch, stride, rates):
    grid = sized_grid(*patch)
    assert list(choose_rates(grid, plan_steps(grid, (stride,) * grid.dims))) == rates


@pytest.mark.parametrize("edge", range(2, 40))
def test_no_rate_reaches_the_edge_of_the_map(edge):
    grid = sized_grid(16 * edge, 512)
    rates = choose_rates(grid, plan_steps(grid, (16, 16)))
    assert all(1 <= rate[0] < edge for rate in rates)


def test_rates_of_the_user_are_taken():
    grid = sized_grid(128, 128)
    assert choose_rates(grid, plan_steps(grid, (16, 16)), [1, 7]) == ((1, 1), (7, 7))


@pytest.mark.parametrize("rates", [(1, 8), (0, 2), ()])
def test_rates_that_do_not_fit_the_map_are_refused(rates):
    with pytest.raises(ConfigError) as raised:
        MODELS["deeplab_v3"](1, 2, sized_grid(128, 512), size="nano", output_stride=16, rates=rates)
    assert raised.value.code == "RATE_TOO_LARGE"


def reach(branch: torch.nn.Module, channels: int, shape: tuple[int, ...], axis: int) -> list[int]:
    """Offsets along an axis from which a branch's middle voxel sees its input."""
    features = torch.randn(1, channels, *shape, requires_grad=True)
    middle = tuple(n // 2 for n in shape)
    branch(features)[(0, slice(None), *middle)].sum().backward()
    others = [other for other in range(len(shape) + 2) if other != axis + 2]
    seen = features.grad.abs().sum(others).nonzero().flatten()
    return (seen - middle[axis]).tolist()


@both
@pytest.mark.parametrize("shape", [(10, 37), (10, 37, 5)])
def test_each_branch_sees_as_far_as_its_rate_says_on_each_axis(name, shape):
    torch.manual_seed(0)
    grid = sized_grid(*(160, 512, 64)[: len(shape)])  # a map of 10 x 32 x 4
    net = MODELS[name](1, 2, grid, size="nano", norm="batch", output_stride=16).eval()
    pyramid = net.net.head.pyramid
    for axis, rates in enumerate([(2, 4, 6), (6, 12, 18), (1, 2, 2)][: len(shape)]):
        seen = [reach(branch, 64, shape, axis) for branch in pyramid.branches]
        middle = shape[axis] // 2
        inside = range(-middle, shape[axis] - middle)
        assert seen == [[0], *([n for n in (-rate, 0, rate) if n in inside] for rate in rates)]


def test_the_pooled_branch_sees_the_whole_map():
    net = MODELS["deeplab_v3"](1, 2, sized_grid(160, 512), size="nano").eval()
    pyramid = net.net.head.pyramid
    features = torch.randn(1, 64, 5, 7, requires_grad=True)
    pyramid.pooled(features.mean((2, 3), keepdim=True)).sum().backward()
    assert features.grad.abs().sum(1).all()


@torch.no_grad()
def test_pooling_keeps_slices_that_kernels_do_not_mix_apart():
    flat = Grid(3, (3, 32, 32), (9.0, 1.0, 1.0), ((1, 1, 1), (1, 2, 2)), ((1, 3, 3), (1, 3, 3)))
    pyramid = MODELS["deeplab_v3"](1, 2, flat, size="nano").net.head.pyramid
    assert pyramid.pooled_axes == [3, 4]


@both
def test_output_stride_is_chosen_per_axis(name):
    net = MODELS[name](1, 2, THICK_SLICES, size="nano", output_stride=(1, 4, 8)).eval()
    shapes = []
    net.net.backbone.register_forward_hook(
        lambda _, inputs, output: shapes.extend(x.shape[2:] for x in output)
    )
    net(torch.randn(1, 1, 4, 32, 32))
    assert tuple(shapes[-1]) == (4, 8, 4)


@torch.no_grad()
def test_decoder_gives_logits_at_the_first_stage():
    net = MODELS["deeplab_v3_plus"](1, 2, even_grid(2), size="nano").eval()
    features = net.net.backbone(image := torch.randn(1, 1, 64, 96))
    assert net.net.head(image, features).shape == (1, 2, 16, 24)


@torch.no_grad()
def test_fine_channels_give_logits_at_the_resolution_of_the_image():
    net = MODELS["deeplab_v3_plus"](1, 2, even_grid(2), size="nano", fine_channels=4).eval()
    features = net.net.backbone(image := torch.randn(1, 1, 64, 96))
    assert net.net.head(image, features).shape == (1, 2, 64, 96)


@both
def test_supervision_adds_the_scores_of_the_third_stage_in_training_only(name):
    net = MODELS[name](1, 2, even_grid(2, 4, 32), size="nano", deep_supervision=True)
    image = torch.randn(1, 1, 30, 32)
    outputs = net.train()(image)
    assert [tuple(level.shape[2:]) for level in outputs] == [(30, 32), (8, 8)]
    outputs[1].sum().backward()
    assert net.net.auxiliary[0][0].weight.grad.any()
    assert isinstance(net.eval()(image), torch.Tensor)


@both
def test_dropout_changes_training_and_not_evaluation(name):
    net = MODELS[name](1, 2, even_grid(2, 4, 32), size="nano", dropout=0.5)
    image = torch.randn(1, 1, 32, 32)
    assert not torch.equal(net.train()(image), net(image))
    assert torch.equal(net.eval()(image), net(image))


@both
def test_depth_1_kernels_give_the_2d_network_slice_by_slice(name):
    assert slice_difference(name, {}, edge=32) < 1e-5


@both
def test_two_cases_are_overfitted(name):
    assert overfit(name, 50) > 0.98


@both
@traced
def test_openvino_gives_the_same_logits(name):
    net = MODELS[name](1, 2, even_grid(3, 4, 16), size="nano")
    assert export_difference(net, torch.randn(1, 1, 13, 11, 16)) < 1e-4
