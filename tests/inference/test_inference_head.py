"""Trunk and head: the same logits, shared weights, and no split where the last layer is another."""

import pytest
import torch
from torch import Tensor, nn

from medseg.inference.head import split_head
from medseg.models import MODELS, Grid

GRID = Grid(2, (16, 16), (1.0, 1.0), ((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3, (4, 6, 8))
IMAGE = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
OPTIONS = {"deep_supervision": True}


def build(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name](2, 9, GRID, **options).eval()


@pytest.mark.parametrize("name", ["light_unet", "unet", "residual_unet", "mednext"])
def test_a_unet_is_split_and_gives_the_same_logits(name: str):
    network = build(name, **OPTIONS)
    parts = split_head(network, IMAGE)
    assert parts is not None
    trunk, head = parts
    features = trunk(IMAGE)[0]
    assert len(features) < 9 == len(head.bias)
    torch.testing.assert_close(head(features), network(IMAGE)[0], rtol=1e-4, atol=1e-5)


def test_the_trunk_shares_weights_and_leaves_the_network_whole():
    network = build("unet")
    before = network(IMAGE)
    parts = split_head(network, IMAGE)
    assert parts is not None
    own = {id(parameter) for parameter in network.parameters()}
    assert {id(parameter) for parameter in parts[0].parameters()} < own
    assert torch.equal(network(IMAGE), before)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("name", ["deeplab_v3_plus", "fcn"])
def test_a_network_that_resizes_after_its_classifier_is_not_split(name: str):
    assert split_head(build(name), IMAGE) is None


class Twice(nn.Module):
    """One layer that is used in the middle and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(2, 2, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(self.layer(image).relu())


@pytest.mark.parametrize(
    "network",
    [
        Twice(),
        nn.Sequential(nn.Conv3d(2, 3, 1), nn.Sigmoid()),
        nn.Sequential(nn.Conv3d(2, 3, 1), nn.ReLU(inplace=True)),
        nn.Conv3d(2, 3, 3, padding=1),
        nn.Conv3d(2, 3, 1),
    ],
)
def test_only_a_layer_of_its_own_at_the_very_end_is_a_head(network: nn.Module):
    assert split_head(network.eval(), torch.randn(1, 2, 4, 4, 4)) is None


def test_a_head_without_bias_has_one_of_zeros():
    network = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 3, 1, bias=False)).eval()
    parts = split_head(network, torch.randn(1, 2, 4, 5, 6))
    assert parts is not None and not parts[1].bias.any()
