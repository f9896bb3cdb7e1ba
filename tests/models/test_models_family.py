"""What is particular to the networks around `unet`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from monai.networks.nets import MedNeXt, SegResNetDS
from torch import nn

from medseg.core.errors import ConfigError
from medseg.models import MODELS, Grid
from medseg.models.blocks import upsample
from medseg.models.features import LIGHT, UNET, choose_features

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))
KERNELS = ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
GRID = Grid(dims=3, patch=(8, 16, 16), spacing_mm=(3.0, 1.0, 1.0), strides=STRIDES, kernels=KERNELS)
PLANNED = Grid(**(vars(GRID) | {"features": (5, 6, 7, 8)}))


def cubic(levels: int, dims: int = 3) -> Grid:
    strides = ((1,) * dims, *[(2,) * dims] * (levels - 1))
    return Grid(dims, (2**levels,) * dims, (1.0,) * dims, strides, ((3,) * dims,) * levels)


def build(name: str, grid: Grid = GRID, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name](1, 3, grid, **({"size": "nano"} | options))


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Copy weights by their order in the forward pass's definition, module type by module type."""
    target.load_state_dict(dict(zip(target.state_dict(), source.state_dict().values(), strict=True)))


@pytest.mark.parametrize(
    ("features", "size", "grid", "expected"),
    [
        ((1, 2, 3, 4), "nano", PLANNED, (1, 2, 3, 4)),
        (None, "nano", PLANNED, (4, 8, 16, 16)),
        (None, None, PLANNED, (5, 6, 7, 8)),
        (None, None, GRID, (32, 64, 128, 256)),
    ],
    ids=["features", "size", "plan", "default"],
)
def test_features_come_before_size_before_plan_before_default(features, size, grid, expected):
    assert choose_features(features, grid, size=size) == expected


def test_thin_level_comes_before_the_doubling():
    assert LIGHT["base"].count(GRID) == (8, 32, 64, 128)
    assert UNET["base"].count(GRID) == (32, 64, 128, 256)


def test_paper_unet_keeps_its_widths_whatever_the_plan_says():
    with torch.device("meta"):
        net = MODELS["paper_unet"](1, 2, PLANNED)
    assert net.net.encoder[0][0].out_channels == 64


def test_paper_unet_drops_out_at_the_bottom_alone():
    net = build("paper_unet", dropout=0.5)
    image = torch.randn(1, 1, 8, 16, 16)
    assert not torch.equal(net.train()(image), net(image))
    assert [type(layer) for layer in net.modules()].count(nn.Dropout3d) == 1


def test_open_gates_make_attention_unet_the_plain_unet():
    gated, plain = build("attention_unet"), build("unet")
    plain.load_state_dict({k: v for k, v in gated.state_dict().items() if ".gates." not in k})
    image = torch.randn(2, 1, 8, 16, 16)
    assert not torch.equal(gated.eval()(image), plain.eval()(image))
    for gate in gated.net.gates.values():
        nn.init.zeros_(gate.psi.weight)
        nn.init.constant_(gate.psi.bias, 100.0)  # whose sigmoid is 1 in float32
    assert torch.equal(gated(image), plain(image))


def test_closed_gates_take_the_skip_away():
    gate = build("attention_unet").net.gates["1"]
    nn.init.zeros_(gate.psi.weight)
    nn.init.constant_(gate.psi.bias, -200.0)
    assert not gate(torch.randn(1, 8, 4, 4, 4), torch.randn(1, 16, 2, 2, 2)).any()


def test_finest_skip_has_no_gate():
    assert list(build("attention_unet").net.gates) == ["1", "2"]


def test_unet_plus_plus_supervises_every_nested_unet_at_full_resolution():
    outputs = build("unet_plus_plus").train()(torch.randn(1, 1, 7, 15, 16))
    assert [tuple(output.shape) for output in outputs] == [(1, 3, 7, 15, 16)] * 3


def test_unet_plus_plus_gives_its_deepest_unet():
    net = build("unet_plus_plus")
    image = torch.randn(1, 1, 8, 16, 16)
    assert torch.equal(net.train()(image)[0], net.eval()(image))


@pytest.mark.parametrize("name", ["unet", "light_unet", "residual_unet", "segresnet", "mednext"])
def test_deep_supervision_leaves_out_the_two_coarsest_levels(name):
    outputs = build(name).train()(torch.randn(1, 1, 8, 16, 16))
    assert [tuple(output.shape[2:]) for output in outputs] == [(8, 16, 16), (8, 8, 8)]


@pytest.mark.parametrize(
    "name", ["light_unet", "residual_unet", "unet_plus_plus", "segresnet", "mednext", "attention_unet"]
)
def test_deep_supervision_can_be_switched_off(name):
    net = build(name, deep_supervision=False).train()
    assert isinstance(net(torch.randn(1, 1, 8, 16, 16)), torch.Tensor)


@pytest.mark.parametrize(
    "name", ["residual_unet", "segresnet", "mednext", "unet_plus_plus", "paper_unet", "fpn"]
)
def test_a_single_level_is_enough(name):
    net = build(name, Grid(2, (8, 8), (1.0, 1.0), ((1, 1),), ((3, 3),))).train()
    output = net(torch.randn(1, 1, 7, 8))
    assert (output if isinstance(output, torch.Tensor) else output[0]).shape == (1, 3, 7, 8)


def test_light_unet_refuses_a_single_level():
    with pytest.raises(ConfigError) as raised:
        build("light_unet", cubic(1))
    assert raised.value.code == "GRID_TOO_SHALLOW"


def test_light_unet_is_thin_at_full_resolution_whatever_the_plan_proposes():
    grid = replace(cubic(3), features=(32, 64, 128))
    assert choose_features(None, grid, table=LIGHT) == (8, 64, 128)
    assert choose_features(None, grid) == (32, 64, 128)


def test_light_unet_convolves_full_resolution_with_its_thin_branch_alone():
    net = build("light_unet")
    widths = []
    for layer in net.modules():
        if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
            layer.register_forward_hook(
                lambda _, __, out: widths.append(out.shape[1]) if out.shape[2:] == (8, 16, 16) else None
            )
    net.eval()(torch.randn(1, 1, 8, 16, 16))
    assert widths == [4, 4, 4, 3]  # stem, up, after the join, head


def test_residual_blocks_follow_the_users_counts():
    stages = build("residual_unet", blocks=(1, 2)).net.encoder.stages
    assert [len(stage) for stage in stages] == [1, 2, 2, 2]


@pytest.mark.parametrize("blocks", [(1, 0), (-1,)])
def test_a_level_without_a_block_is_refused(blocks):
    with pytest.raises(ConfigError) as raised:
        build("residual_unet", blocks=blocks)
    assert raised.value.code == "BLOCKS_INVALID"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light_unet", {"deep_supervision": False}),
        ("residual_unet", {"deep_supervision": False}),
        ("unet_plus_plus", {"deep_supervision": False}),
        ("fpn", {}),
    ],
)
def test_dropout_changes_training_and_not_evaluation(name, options):
    net = build(name, dropout=0.5, **options)
    image = torch.randn(1, 1, 8, 16, 16)
    assert not torch.equal(net.train()(image), net(image))
    assert torch.equal(net.eval()(image), net(image))


@pytest.mark.parametrize("name", ["unet", "light_unet", "residual_unet", "paper_unet", "unet_plus_plus"])
def test_linear_upsampling_leaves_no_transposed_convolution(name):
    net = build(name, upsampling="linear")
    assert not any(isinstance(layer, nn.ConvTranspose3d) for layer in net.modules())
    assert net.eval()(torch.randn(1, 1, 7, 16, 15)).shape == (1, 3, 7, 16, 15)


def pattern(kind: str) -> float:
    """Return how much neighbours differ inside what a layer makes of a flat image."""
    torch.manual_seed(0)
    output = upsample(1, 1, (3, 3), (2, 2), kind=kind)(torch.ones(1, 1, 8, 8))[0, 0, 2:-2, 2:-2]
    return float((output.max() - output.min()).detach())


def test_linear_upsampling_of_a_flat_image_is_flat_and_transposed_is_a_checkerboard():
    assert pattern("linear") < 1e-6
    assert pattern("transposed") > 0.1


def test_unknown_upsampling_is_refused():
    with pytest.raises(ConfigError) as raised:
        build("unet", upsampling="liner")
    assert raised.value.code == "UNKNOWN_NAME" and "`linear`" in raised.value.hint


@pytest.mark.parametrize("width", [None, 6])
def test_fpn_has_a_pyramid_of_the_users_width(width):
    net = build("fpn", pyramid_channels=width)
    assert {lateral.out_channels for lateral in net.net.laterals} == {width or 8}


def test_every_pyramid_level_changes_the_output():
    net = build("fpn").eval()
    image = torch.randn(1, 1, 8, 16, 16)
    before = net(image)
    for branch in net.net.branches:
        conv = next(layer for layer in branch.modules() if isinstance(layer, nn.Conv3d))
        kept = conv.weight.detach().clone()
        nn.init.normal_(conv.weight)
        assert not torch.equal(net(image), before)
        conv.weight.data.copy_(kept)


def test_segresnet_on_an_isotropic_grid_is_monais():
    ours = build("segresnet", cubic(4), size="base", features=(8, 16, 32, 64)).eval()
    norm = ("GROUP", {"num_groups": 8})
    peer = SegResNetDS(
        3, 8, 1, 3, norm=norm, blocks_down=(1, 2, 2, 4), dsdepth=2, upsample_mode="nontrainable"
    ).eval()
    mine, net = ours.net, peer.encoder
    net.conv_init.load_state_dict(mine.stem.state_dict())
    for level, layer in enumerate(net.layers):
        layer["blocks"].load_state_dict(mine.encoder[level].state_dict())
        if level < 3:
            layer["downsample"].load_state_dict(mine.downs[level].state_dict())
    for level, layer in enumerate(reversed(peer.up_layers)):
        copy_in_order(mine.decoder.ups[level], layer["upsample"])
        copy_in_order(mine.decoder.stages[level], layer["blocks"])
        if level < 2:
            layer["head"].load_state_dict(mine.decoder.heads[level].state_dict())
    image = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(ours(image), peer(image))


def test_mednext_on_an_isotropic_grid_is_monais():
    ours = build("mednext", cubic(3), size="base", features=(4, 8, 16)).eval()
    peer = MedNeXt(
        init_filters=4,
        out_channels=3,
        encoder_expansion_ratio=(2, 3),
        decoder_expansion_ratio=(3, 2),
        bottleneck_expansion_ratio=4,
        kernel_size=3,
        blocks_down=(2, 2),
        blocks_up=(2, 2),
        use_residual_connection=True,
    ).eval()
    mine = ours.net
    copy_in_order(mine.stem, peer.stem)
    copy_in_order(mine.encoder[-1], peer.bottleneck)
    for level in range(2):
        copy_in_order(mine.encoder[level], peer.enc_stages[level])
        copy_by_name(mine.downs[level], peer.down_blocks[level])
        copy_by_name(mine.decoder.ups[level], peer.up_blocks[1 - level])
        copy_in_order(mine.decoder.stages[level], peer.dec_stages[1 - level])
    peer.out_0.conv_out.bias.data.copy_(mine.decoder.heads[0].bias.data)
    peer.out_0.conv_out.weight.data.copy_(mine.decoder.heads[0].weight.data.transpose(0, 1))
    image = torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(ours(image), peer(image))


def copy_by_name(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def test_swin_unetr_refuses_a_width_that_its_heads_cannot_share():
    with pytest.raises(ConfigError) as raised:
        build("swin_unetr", cubic(3), feature_size=20)
    assert raised.value.code == "FEATURES_INVALID"
