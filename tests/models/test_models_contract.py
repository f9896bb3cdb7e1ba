"""What every network promises; a new line in MODELS is tested at once."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from medseg.models import MODELS, Grid

ISOTROPIC = {
    dims: Grid(
        dims=dims,
        patch=(16,) * dims,
        spacing_mm=(1.0,) * dims,
        strides=((1,) * dims, *[(2,) * dims] * 3),
        kernels=((3,) * dims,) * 4,
    )
    for dims in (2, 3)
}
THICK_SLICES = Grid(
    dims=3,
    patch=(4, 16, 16),
    spacing_mm=(5.0, 1.0, 1.0),
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
)
FEATURES = (4, 6, 8, 8)
ODD = {2: (13, 19), 3: (9, 11, 10)}
CLASSES = 3

every_model = pytest.mark.parametrize("name", MODELS)
every_dims = pytest.mark.parametrize("dims", [2, 3])
every_channels = pytest.mark.parametrize("channels", [1, 3])


def build(name: str, grid: Grid, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    net = MODELS[name](channels, CLASSES, grid, features=FEATURES)
    assert isinstance(net, nn.Module)
    return net


def finest(output: Tensor | list[Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


@every_model
@every_dims
@every_channels
def test_odd_size_in_is_the_same_size_out(name, dims, channels):
    output = build(name, ISOTROPIC[dims], channels).eval()(torch.randn(2, channels, *ODD[dims]))
    assert output.shape == (2, CLASSES, *ODD[dims])


@every_model
@every_dims
def test_training_output_is_a_tensor_or_a_list_that_begins_at_full_resolution(name, dims):
    output = build(name, ISOTROPIC[dims]).train()(torch.randn(1, 1, *ISOTROPIC[dims].patch))
    assert finest(output).shape == (1, CLASSES, *ISOTROPIC[dims].patch)


@every_model
@every_dims
@every_channels
def test_gradient_reaches_every_parameter(name, dims, channels):
    net = build(name, ISOTROPIC[dims], channels).train()
    output = net(torch.randn(2, channels, *ISOTROPIC[dims].patch))
    sum((level**2).sum() for level in (output if isinstance(output, list) else [output])).backward()
    without = [key for key, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


@every_model
@every_dims
def test_one_sample_that_shrinks_to_one_voxel_can_train(name, dims):
    output = build(name, ISOTROPIC[dims]).train()(torch.randn(1, 1, *(5,) * dims))
    assert finest(output).shape == (1, CLASSES, *(5,) * dims)


@every_model
def test_anisotropic_grid_keeps_the_size(name):
    output = build(name, THICK_SLICES).eval()(torch.randn(1, 1, 3, 17, 16))
    assert output.shape == (1, CLASSES, 3, 17, 16)


@every_model
def test_stride_one_axis_never_mixes_slices_that_kernels_do_not(name):
    flat = Grid(
        dims=3,
        patch=(3, 16, 16),
        spacing_mm=(9.0, 1.0, 1.0),
        strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2)),
        kernels=((1, 3, 3),) * 4,
    )
    net = build(name, flat).eval()
    for layer in net.modules():  # a norm would carry the change of one slice to all
        if isinstance(layer, nn.InstanceNorm3d):
            layer.forward = lambda x: x
    image = torch.randn(1, 1, 3, 16, 16)
    changed = image.clone()
    changed[:, :, 0] += 1
    same = (net(image) == net(changed)).all(dim=(3, 4)).flatten(0, 1).all(0)
    assert same.tolist() == [False, True, True]


@every_model
@every_dims
def test_state_dict_gives_another_network_equal_outputs(name, dims):
    first = build(name, ISOTROPIC[dims]).eval()
    second = MODELS[name](1, CLASSES, ISOTROPIC[dims], features=FEATURES).eval()
    second.load_state_dict(first.state_dict())
    image = torch.randn(1, 1, *ISOTROPIC[dims].patch)
    assert torch.equal(first(image), second(image))


@every_model
def test_state_dict_holds_each_weight_once(name):
    state = build(name, ISOTROPIC[2]).state_dict()
    assert len({weight.data_ptr() for weight in state.values()}) == len(state)


@every_model
def test_network_can_be_copied_after_a_training_step(name):
    net = build(name, ISOTROPIC[2]).train()
    finest(net(torch.randn(1, 1, 16, 16))).sum().backward()
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(copy.deepcopy(net).eval()(image), net.eval()(image))


@every_model
def test_weights_depend_on_the_global_seed_only(name):
    state = build(name, ISOTROPIC[2]).state_dict()
    again = build(name, ISOTROPIC[2]).state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)


@every_model
def test_first_output_has_no_extreme_logits(name):
    output = build(name, ISOTROPIC[3]).eval()(torch.randn(2, 1, *ISOTROPIC[3].patch))
    assert 0.01 < output.std() < 10


def test_importing_the_dict_loads_neither_torch_nor_monai():
    code = "import sys, medseg.models; print({'torch', 'monai'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
