"""Grids and small jobs that the tests of `fcn`, `deeplab_*`, `segformer` and their encoders share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.models import MODELS, Grid

# OpenVINO traces; a network's shapes are fixed then, which is what is wanted.
TRACING = ("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:DeprecationWarning")


def traced(test: Callable[..., None]) -> Callable[..., None]:
    """Let a test trace a network."""
    for warning in TRACING:
        test = pytest.mark.filterwarnings(warning)(test)
    return test


def even_grid(dims: int, levels: int = 6, edge: int | None = None) -> Grid:
    """Isotropic, every step 2."""
    strides = ((1,) * dims, *[(2,) * dims] * (levels - 1))
    patch = (edge or 8 * 2 ** (levels - 1),) * dims
    return Grid(dims, patch, (1.0,) * dims, strides, ((3,) * dims,) * levels)


# Slices of 5 mm: kernels reach across them from level 2 on, and level 3 is the first that halves them.
THICK_SLICES = Grid(
    dims=3,
    patch=(16, 64, 64),
    spacing_mm=(5.0, 1.0, 1.0),
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
)


def flat_grid(grid: Grid) -> Grid:
    """The 3D grid whose slices are the 2D grid's and never mix."""
    strides = tuple((1, *level) for level in grid.strides)
    kernels = tuple((1, *level) for level in grid.kernels)
    return Grid(3, (3, *grid.patch), (9.0, *grid.spacing_mm), strides, kernels)


def count(name: str, grid: Grid, channels: int, classes: int, **options: Any) -> int:
    """Weights of a network that takes no memory."""
    with torch.device("meta"):
        net = MODELS[name](channels, classes, grid, **options)
    return sum(weight.numel() for weight in net.parameters())


def shake_norms(net: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights of a trained network; return it in evaluation."""
    for layer in net.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)
    return net.eval()


@torch.no_grad()
def slice_difference(name: str, options: dict[str, Any], edge: int) -> float:
    """Largest difference between the 3D network of depth-1 kernels and the 2D one, slice by slice."""
    torch.manual_seed(0)
    plane = even_grid(2, 4, edge)
    options = {"size": "nano", "norm": "batch", **options}
    net_2d = shake_norms(MODELS[name](2, 3, plane, **options))
    net_3d = MODELS[name](2, 3, flat_grid(plane), **options).eval()
    shapes = {key: value.shape for key, value in net_3d.state_dict().items()}
    net_3d.load_state_dict({key: value.reshape(shapes[key]) for key, value in net_2d.state_dict().items()})
    image = torch.randn(1, 2, 3, 19, 22)
    slices = [net_2d(image[:, :, k]) for k in range(3)]
    return float((net_3d(image) - torch.stack(slices, dim=2)).abs().max())


def export_difference(net: nn.Module, image: Tensor) -> float:
    """Largest difference between torch and OpenVINO on one image."""
    import openvino

    net.eval()
    model = openvino.convert_model(net, example_input=image, input=list(image.shape))
    one_thread = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", one_thread)
    with torch.no_grad():
        expected = net(image)
    return float((torch.from_numpy(compiled([image.numpy()])[0]) - expected).abs().max())


def overfit(name: str, steps: int, **options: Any) -> float:
    """Foreground Dice of two 32x32 cases after training on them: a box and a disc, in noise."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    label = torch.stack(
        [
            ((rows > 5) & (rows < 17) & (columns > 8) & (columns < 26)).long(),
            ((rows - 18) ** 2 + (columns - 13) ** 2 < 81).long(),
        ]
    )
    image = label[:, None] + 0.3 * torch.randn(2, 1, 32, 32)
    net = MODELS[name](1, 2, even_grid(2, 4, 32), size="nano", **options).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(image), label).backward()
        optimizer.step()
    with torch.no_grad():
        found = net.eval()(image).argmax(1)
    return float(2 * (found * label).sum() / (found.sum() + label.sum()))
