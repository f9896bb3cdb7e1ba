"""The ResNet encoder and the steps it takes on a grid."""

from __future__ import annotations

import pytest
import torch

from medseg.core.errors import ConfigError
from medseg.models import Grid
from medseg.models.layers import Layers
from medseg.models.resnet import SIZES, ResNet, Size
from medseg.models.steps import choose_output_stride, plan_steps, spread_levels, total_stride
from tests.models.atrous_grids import THICK_SLICES, even_grid, shake_norms

# Six levels whose first axis is halved twice only.
DEEP_THICK = Grid(
    dims=3,
    patch=(32, 64, 64),
    spacing_mm=(4.0, 1.0, 1.0),
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)),
    kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
)


@pytest.fixture(autouse=True)
def _thin_sizes(monkeypatch):
    monkeypatch.setitem(SIZES, "thin basic", Size((1, 2, 1, 2), 4, False, 3, 8, 4))
    monkeypatch.setitem(SIZES, "thin bottleneck", Size((1, 2, 1, 2), 4, True, 7, 8, 4))


def build(grid: Grid, output_stride, size: str = "thin basic", stem_levels: int | None = None) -> ResNet:
    torch.manual_seed(0)
    net = ResNet(1, Layers(grid.dims, "batch"), plan_steps(grid, output_stride, stem_levels), size)
    return shake_norms(net)


@pytest.mark.parametrize("size", ["thin basic", "thin bottleneck"])
@pytest.mark.parametrize(
    ("grid", "output_stride", "image", "every"),
    [
        (even_grid(2), (8, 8), (64, 96), (4, 4)),
        (even_grid(2), (16, 8), (64, 64), (2, 4)),  # each axis by itself
        (even_grid(2, levels=5), (2, 1), (32, 32), (8, 16)),  # even the stem and the pool dilate
        (DEEP_THICK, (2, 16, 8), (8, 64, 64), (2, 2, 4)),
    ],
)
@torch.no_grad()
def test_dilated_features_at_every_nth_voxel_are_those_of_the_strided_net(
    size, grid, output_stride, image, every
):
    strided = build(grid, (32,) * grid.dims, size)
    dilated = build(grid, output_stride, size)
    voxels = torch.randn(1, 1, *image)
    sparse, dense = strided(voxels)[-1], dilated(voxels)[-1]
    steps = (slice(None), slice(None), *(slice(None, None, step) for step in every))
    assert dense.shape[2:] == tuple(n * step for n, step in zip(sparse.shape[2:], every))
    assert torch.allclose(dense[steps], sparse, atol=1e-5)


def test_strides_beyond_the_output_stride_become_dilations_of_what_follows():
    steps = plan_steps(even_grid(2), (8, 8))
    assert [step.stride[0] for step in steps] == [2, 2, 2, 1, 1]
    assert [step.dilation_before[0] for step in steps] == [1, 1, 1, 1, 2]
    assert [step.dilation[0] for step in steps] == [1, 1, 1, 2, 4]


def test_an_axis_is_convolved_and_halved_when_the_grid_says_so():
    steps = plan_steps(DEEP_THICK, (32, 32, 32))
    assert [step.stride for step in steps] == list(DEEP_THICK.strides[1:])
    assert [step.kernel[0] for step in steps] == [1, 3, 3, 3, 3]
    assert total_stride(steps) == (4, 32, 32)


def test_a_grid_of_few_levels_leaves_out_the_pool_and_ends_without_strides():
    steps = plan_steps(THICK_SLICES, (32, 32, 32))
    assert [step.stride for step in steps] == [(1, 2, 2), (1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 1, 1)]
    assert [step.halves for step in steps] == [True, False, True, True, False]


@pytest.mark.parametrize(("stem_levels", "edges"), [(1, [16, 8, 4, 2]), (2, [8, 4, 2, 2])])
def test_stem_levels_choose_how_fine_the_first_stage_is(stem_levels, edges):
    features = build(even_grid(2, levels=5), (32, 32), stem_levels=stem_levels)(torch.randn(1, 1, 32, 32))
    assert [level.shape[-1] for level in features] == edges


def test_levels_beyond_the_fifth_step_are_left_out():
    assert len(spread_levels(even_grid(2, levels=8))) == 5


def test_a_grid_of_one_level_has_steps_of_its_only_kernel():
    grid = Grid(2, (8, 8), (1.0, 1.0), ((1, 1),), ((1, 3),))
    assert spread_levels(grid) == [((1, 1), (1, 3))] * 5


def test_an_axis_that_is_halved_is_convolved_too():
    grid = Grid(2, (8, 8), (1.0, 1.0), ((1, 1), (2, 2)), ((1, 1), (1, 3)))
    assert spread_levels(grid)[0] == ((2, 2), (3, 3))


@pytest.mark.parametrize(
    ("patch", "most", "expected"),
    [((512, 512), 16, (16, 16)), ((512, 512), 8, (8, 8)), ((128, 64), 16, (16, 8)), ((48, 32), 16, (4, 4))],
)
def test_output_stride_leaves_eight_voxels_of_each_axis(patch, most, expected):
    grid = Grid(2, patch, (1.0, 1.0), even_grid(2).strides, even_grid(2).kernels)
    assert choose_output_stride(grid, None, most) == expected


@pytest.mark.parametrize(("wanted", "expected"), [(8, (8, 8, 8)), ([2, 8, 16], (2, 8, 16))])
def test_output_stride_of_the_user_holds_for_all_axes_or_each(wanted, expected):
    assert choose_output_stride(THICK_SLICES, wanted, 16) == expected


@pytest.mark.parametrize("wanted", [0, (8, 8)])
def test_an_impossible_output_stride_is_refused(wanted):
    with pytest.raises(ConfigError) as raised:
        choose_output_stride(THICK_SLICES, wanted, 16)
    assert raised.value.code == "OUTPUT_STRIDE"


def test_a_stem_of_three_levels_is_refused():
    with pytest.raises(ConfigError) as raised:
        plan_steps(THICK_SLICES, (8, 8, 8), 3)
    assert raised.value.code == "STEM_LEVELS"


# Published with a classifier of 1000 classes: 11,689,512 less 513,000, and 25,557,032 less 2,049,000.
@pytest.mark.parametrize(("size", "weights"), [("base", 11_176_512), ("large", 23_508_032)])
def test_weights_are_those_of_resnet_18_and_50(size, weights):
    with torch.device("meta"):
        net = ResNet(3, Layers(2), plan_steps(even_grid(2), (32, 32)), size)
    assert sum(weight.numel() for weight in net.parameters()) == weights


@pytest.mark.parametrize(
    ("norm", "kind"), [("instance", "InstanceNorm2d"), ("group", "GroupNorm"), ("batch", "BatchNorm2d")]
)
def test_each_norm_has_two_weights_a_channel(norm, kind):
    layer = Layers(2, norm).make_norm(24)
    assert type(layer).__name__ == kind
    assert sum(weight.numel() for weight in layer.parameters()) == 48


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (24, 24), (33, 11), (7, 7)])
def test_group_norm_takes_32_groups_or_the_most_that_divide(channels, groups):
    assert Layers(3, "group").make_norm(channels).num_groups == groups


def test_an_unknown_norm_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="`instanse`") as raised:
        Layers(2, "instanse")
    assert "`instance`" in raised.value.hint


@torch.no_grad()
def test_a_separable_block_is_a_full_convolution_of_products():
    torch.manual_seed(0)
    block = Layers(3).make_block(3, 4, (1, 3, 3), dilation=(1, 2, 2), separable=True)
    depth, point = block[0].weight, block[1].weight
    weight = point * depth.transpose(0, 1)
    image = torch.randn(1, 3, 4, 9, 9)
    full = torch.nn.functional.conv3d(image, weight, padding=(0, 2, 2), dilation=(1, 2, 2))
    assert torch.allclose(block[1](block[0](image)), full, atol=1e-6)
