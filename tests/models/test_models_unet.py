"""What is particular to `unet` and `strided_unet`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from monai.networks.nets import DynUNet, UNet

from medseg.core.errors import ConfigError
from medseg.models import MODELS, Grid
from medseg.models.features import choose_features

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))
KERNELS = ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
GRID = Grid(dims=3, patch=(8, 16, 16), spacing_mm=(3.0, 1.0, 1.0), strides=STRIDES, kernels=KERNELS)
FEATURES = (4, 6, 8, 10)


def deep_grid(dims: int, levels: int) -> Grid:
    strides = ((1,) * dims, *[(2,) * dims] * (levels - 1))
    return Grid(dims, (2**levels,) * dims, (1.0,) * dims, strides, ((3,) * dims,) * levels)


def test_deep_supervision_gives_each_level_its_own_resolution_and_none_to_the_two_coarsest():
    outputs = MODELS["unet"](1, 2, GRID, features=FEATURES).train()(torch.randn(1, 1, 8, 16, 16))
    assert [tuple(output.shape[2:]) for output in outputs] == [(8, 16, 16), (8, 8, 8)]


def test_deep_supervision_of_an_odd_size_covers_it_at_every_level():
    outputs = MODELS["unet"](1, 2, GRID, features=FEATURES).train()(torch.randn(1, 1, 7, 13, 15))
    assert [tuple(output.shape[2:]) for output in outputs] == [(7, 13, 15), (7, 7, 8)]


def test_deep_supervision_is_silent_in_evaluation():
    net = MODELS["unet"](1, 2, GRID, features=FEATURES).eval()
    calls = []
    net.net.heads[1].register_forward_hook(lambda *args: calls.append(args))
    assert isinstance(net(torch.randn(1, 1, 8, 16, 16)), torch.Tensor)
    assert calls == []


def test_without_deep_supervision_training_gives_one_tensor():
    net = MODELS["unet"](1, 2, GRID, features=FEATURES, deep_supervision=False).train()
    assert isinstance(net(torch.randn(1, 1, 8, 16, 16)), torch.Tensor)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_shallow_grids_have_one_head(levels):
    net = MODELS["unet"](1, 2, deep_grid(2, levels), features=(4, 4, 4)).train()
    outputs = net(torch.randn(1, 1, 16, 16))
    assert [tuple(output.shape) for output in outputs] == [(1, 2, 16, 16)]


@pytest.mark.parametrize("residual", [False, True])
def test_unet_with_one_kernel_equals_monai_dynunet_with_the_same_weights(residual):
    kernels = ((3, 3, 3),) * 4  # with several, DynUNet decodes a level with the kernel of the one below
    grid = replace(GRID, kernels=kernels)
    ours = MODELS["unet"](2, 3, grid, features=FEATURES, residual=residual, deep_supervision=False).eval()
    peer = DynUNet(3, 2, 3, kernels, STRIDES, STRIDES[1:], filters=FEATURES, res_block=residual).eval()
    encoder, decoder, head = ours.net.encoder, ours.net.decoder, ours.net.heads[0]
    peer.input_block.load_state_dict(encoder[0].state_dict())
    peer.downsamples.load_state_dict(encoder[1:-1].state_dict())
    peer.bottleneck.load_state_dict(encoder[-1].state_dict())
    peer.upsamples.load_state_dict(decoder[::-1].state_dict())
    peer.output_block.load_state_dict(head.state_dict())
    image = torch.randn(1, 2, 8, 16, 16)
    assert torch.equal(ours(image), peer(image))


@pytest.mark.parametrize("units", [0, 2])
def test_strided_unet_on_an_isotropic_grid_is_monai_unet(units):
    torch.manual_seed(0)
    ours = MODELS["strided_unet"](1, 3, deep_grid(3, 4), features=FEATURES, residual_units=units).eval()
    torch.manual_seed(0)
    peer = UNet(3, 1, 3, channels=FEATURES, strides=(2, 2, 2), num_res_units=units).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(ours(image), peer(image))


def test_convolution_weights_have_the_variance_of_he_initialisation():
    torch.manual_seed(0)
    weight = MODELS["unet"](1, 2, deep_grid(3, 3), features=(16, 32, 32)).net.encoder[1].conv2.conv.weight
    assert weight.var().item() == pytest.approx(2 / (1 + 0.01**2) / (32 * 27), rel=0.05)


def test_convolutions_before_a_norm_have_no_bias():
    net = MODELS["unet"](1, 2, GRID, features=FEATURES)
    with_bias = {key.split(".")[1] for key in net.state_dict() if key.endswith("conv.bias")}
    assert with_bias == {"heads"}


@pytest.mark.parametrize(("name", "options"), [("unet", {"deep_supervision": False}), ("strided_unet", {})])
def test_dropout_changes_training_and_not_evaluation(name, options):
    net = MODELS[name](1, 2, GRID, features=FEATURES, dropout=0.5, **options)
    image = torch.randn(1, 1, 8, 16, 16)
    assert not torch.equal(net.train()(image), net(image))
    assert torch.equal(net.eval()(image), net(image))


@pytest.mark.parametrize(
    ("dims", "expected"), [(3, (32, 64, 128, 256, 320, 320)), (2, (32, 64, 128, 256, 512, 512))]
)
def test_default_features_are_those_of_nnunet(dims, expected):
    assert choose_features(None, deep_grid(dims, 6)) == expected


def test_features_beyond_the_last_level_are_not_used():
    assert choose_features((4, 8, 16, 32), deep_grid(2, 3)) == (4, 8, 16)


def test_too_few_features_name_both_numbers():
    with pytest.raises(ConfigError, match=r"2 features \(4, 8\) for a grid of 4 levels"):
        MODELS["unet"](1, 2, GRID, features=(4, 8))


def test_strided_unet_refuses_a_single_level():
    with pytest.raises(ConfigError) as raised:
        MODELS["strided_unet"](1, 2, deep_grid(2, 1))
    assert raised.value.code == "GRID_TOO_SHALLOW"
