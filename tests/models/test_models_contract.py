"""What every network promises; a new line in MODELS is tested at once."""

from __future__ import annotations

import copy
import inspect
import io
import subprocess
import sys
from dataclasses import replace

import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.losses import LOSSES
from medseg.losses.deep import deep_supervised
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
FLAT = Grid(
    dims=3,
    patch=(3, 16, 16),
    spacing_mm=(9.0, 1.0, 1.0),
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2)),
    kernels=((1, 3, 3),) * 4,
)
ODD = {2: (13, 19), 3: (9, 11, 10)}
CLASSES = 3

MIXES_SLICES = {"swin_unetr"}  # its windows are cubes: a plan that keeps slices apart is refused
ONE_KERNEL = {"strided_unet"}  # for all levels: where one of them mixes slices, all do

every_model = pytest.mark.parametrize("name", MODELS)
every_slicewise_model = pytest.mark.parametrize("name", [name for name in MODELS if name not in MIXES_SLICES])
every_dims = pytest.mark.parametrize("dims", [2, 3])
every_channels = pytest.mark.parametrize("channels", [1, 4])


def build(name: str, grid: Grid, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    net = MODELS[name](channels, CLASSES, grid, size="nano")
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


@every_slicewise_model
def test_anisotropic_grid_keeps_the_size(name):
    output = build(name, THICK_SLICES).eval()(torch.randn(1, 1, 3, 17, 16))
    assert output.shape == (1, CLASSES, 3, 17, 16)


@pytest.mark.parametrize("name", sorted(MIXES_SLICES))
def test_anisotropic_grid_is_refused_by_a_network_that_mixes_slices(name):
    with pytest.raises(ConfigError) as raised:
        build(name, THICK_SLICES)
    assert raised.value.code == "GRID_ANISOTROPIC"


def without_norms(net: nn.Module) -> nn.Module:
    """Return `net` in evaluation, with norms that do nothing: they carry a change of one slice to all."""
    for layer in net.modules():
        if isinstance(layer, (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)):
            layer.forward = lambda x: x
    return net.eval()


@every_slicewise_model
def test_stride_one_axis_never_mixes_slices_that_kernels_do_not(name):
    net = without_norms(build(name, FLAT))
    image = torch.randn(1, 1, 3, 16, 16)
    changed = image.clone()
    changed[:, :, 0] += 1
    same = (net(image) == net(changed)).all(dim=(3, 4)).flatten(0, 1).all(0)
    assert same.tolist() == [False, True, True]


@pytest.mark.parametrize("name", [name for name in MODELS if name not in MIXES_SLICES | ONE_KERNEL])
def test_levels_that_keep_slices_apart_do_so_on_the_way_up_too(name):
    net = build(name, replace(THICK_SLICES, patch=(4, 32, 32))).eval()
    mixing = []

    def note(layer, _, output):
        is_fine = output.shape[3] >= 16  # levels 0 and 1
        mixing.extend([layer] if is_fine and layer.kernel_size[0] > 1 else [])

    for layer in net.modules():
        if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
            layer.register_forward_hook(note)
    net(torch.randn(1, 1, 4, 32, 32))
    assert mixing == []


@every_slicewise_model
def test_3d_network_with_flat_kernels_is_the_2d_network_slice_by_slice(name):
    volume_net, slice_net = build(name, FLAT), build(name, ISOTROPIC[2])
    weights = volume_net.state_dict()
    for key, weight in slice_net.state_dict().items():
        weights[key] = weight.unsqueeze(2) if weight.ndim == 4 else weight
    volume_net.load_state_dict(weights)
    volume_net, slice_net = without_norms(volume_net), without_norms(slice_net)
    image = torch.randn(1, 1, 3, 16, 16)
    with torch.no_grad():
        expected = torch.stack([slice_net(image[:, :, k]) for k in range(3)], dim=2)
        torch.testing.assert_close(volume_net(image), expected, rtol=1e-4, atol=1e-5 * float(expected.std()))


@every_model
@every_dims
def test_state_dict_gives_another_network_equal_outputs(name, dims):
    first = build(name, ISOTROPIC[dims]).eval()
    second = MODELS[name](1, CLASSES, ISOTROPIC[dims], size="nano").eval()
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


@every_model
def test_size_is_an_option(name):
    assert inspect.signature(MODELS[name]).parameters["size"].kind is inspect.Parameter.KEYWORD_ONLY


@every_model
def test_unknown_size_is_refused_with_the_nearest(name):
    with pytest.raises(ConfigError) as raised:
        MODELS[name](1, CLASSES, ISOTROPIC[2], size="smal")
    assert raised.value.code == "UNKNOWN_NAME" and "`small`" in raised.value.hint


@every_model
def test_sizes_grow(name):
    grid = Grid(2, (32, 32), (1.0, 1.0), ISOTROPIC[2].strides[:3], ISOTROPIC[2].kernels[:3])
    nets = [MODELS[name](1, CLASSES, grid, size=size) for size in ("nano", "small", "base", "large")]
    counts = [sum(weight.numel() for weight in net.parameters()) for net in nets]
    assert counts == sorted(set(counts))


def draw_case(centre: tuple[int, int], corner: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return an image (1, 32, 32) and its label: a disc of 1 and a box of 2 on noise."""
    i, j = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    label = ((i - centre[0]) ** 2 + (j - centre[1]) ** 2 <= 25).long()
    label[corner[0] : corner[0] + 9, corner[1] : corner[1] + 6] = 2
    noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(centre[0]))
    return (label + 0.1 * noise)[None], label


def score(logits_BC: Tensor, label_B: Tensor) -> float:
    """Return the lowest Dice of the two foreground labels over both cases."""
    predicted_B = logits_BC.argmax(1)
    pairs = [(p == n, r == n) for p, r in zip(predicted_B, label_B) for n in (1, 2)]
    return min(float(2 * (p & r).sum() / (p.sum() + r.sum())) for p, r in pairs)


@pytest.mark.slow
@every_model
def test_two_cases_are_learnt_by_heart(name):
    cases = [draw_case((9, 10), (18, 20)), draw_case((21, 19), (3, 4))]
    image, label = (torch.stack(tensors) for tensors in zip(*cases))
    assert learn(build(name, ISOTROPIC[2]), image, label) > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "light_unet"])  # the recipes' own; the others learn in 2D
def test_two_volumes_are_learnt_by_heart(name):
    label = torch.zeros(2, 16, 16, 16, dtype=torch.int64)
    label[0, 2:9, 3:8, 4:12], label[0, 10:14, 9:15, 2:7] = 1, 2
    label[1, 8:14, 7:15, 3:9], label[1, 1:6, 2:7, 9:14] = 1, 2
    noise = torch.randn(label.shape, generator=torch.Generator().manual_seed(0))
    assert learn(build(name, ISOTROPIC[3]), (label + 0.1 * noise)[:, None], label) > 0.98


def learn(net: nn.Module, image: Tensor, label: Tensor) -> float:
    """Return the score after 200 steps, or as soon as it is above 0.98."""
    loss = deep_supervised(LOSSES["dice_ce"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(20):
        for _ in range(10):
            optimizer.zero_grad()
            loss(net.train()(image), label).backward()
            optimizer.step()
        with torch.no_grad():
            reached = score(net.eval()(image), label)
        if reached > 0.98:
            break
    return reached


def run_in_onnx(exported: bytes, image: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    return torch.as_tensor(output)


def run_in_openvino(exported: bytes, image: Tensor) -> Tensor:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(exported), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.as_tensor(compiled([image.numpy()])[0])


@pytest.mark.filterwarnings("ignore")  # tracing tells of every fixed size; the exporter, of its successor
@pytest.mark.parametrize(
    ("name", "dims"),
    [*((name, 2 + n % 2) for n, name in enumerate(MODELS)), ("unet", 3), ("light_unet", 3)],
)
def test_exported_network_gives_the_same_logits(name, dims):
    net = build(name, ISOTROPIC[dims]).eval()
    image = torch.randn(1, 1, *ODD[dims])
    buffer = io.BytesIO()
    torch.onnx.export(net, (image,), buffer, dynamo=False)  # ten times faster than its successor
    with torch.no_grad():
        expected = net(image)
    for run in (run_in_onnx, run_in_openvino):
        assert (run(buffer.getvalue(), image) - expected).abs().max() < 1e-3, run


def test_importing_the_dict_loads_neither_torch_nor_monai():
    code = "import sys, medseg.models; print({'torch', 'monai'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
