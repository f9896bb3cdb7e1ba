"""Build a plan's network and choose where it runs."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError, ResourceError
from medseg.core.select import select, suggest
from medseg.core.settings import Builder
from medseg.data.plan import Plan
from medseg.models import MODELS, Grid

DEVICES = ("auto", "cpu", "cuda")


def make_grid(plan: Plan) -> Grid:
    """Return what a network builder needs to know of a plan, without the flat axis of 2D."""
    n = plan.dims
    return Grid(
        dims=n,
        patch=plan.patch[:n],
        spacing_mm=plan.spacing_mm[:n],
        strides=tuple(level[:n] for level in plan.strides),
        kernels=tuple(level[:n] for level in plan.kernels),
        features=plan.features,
    )


def small_window(plan: Plan) -> tuple[int, int, int]:
    """Return a window to try a network on, quicker than a whole one: the coarsest level has 2 voxels an axis.

    Where the plan does not tell the network's strides, as of bundles, it is the whole one.
    """
    if len(plan.strides) == 1:
        return plan.patch
    total = (prod(steps) for steps in zip(*plan.strides, strict=True))
    i, j, k = (min(edge, 2 * step) for edge, step in zip(plan.patch, total, strict=True))
    return i, j, k


@torch.inference_mode()
def count_values(network: nn.Module, window_BC: Tensor) -> int:
    """Return how many numbers a forward pass holds, generously: no layer's output is freed before the end.

    To them come the input of the largest convolution, unfolded, as torch does it where it has no faster way.
    """
    made, unfolded = 0, 0

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal made, unfolded
        if isinstance(output, Tensor) and not any(module.children()):
            made += output.numel()
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                row = module.in_channels // module.groups * prod(module.kernel_size)
                unfolded = max(unfolded, row * output[0, 0].numel() * len(output))

    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        network(window_BC)
    finally:
        for handle in handles:
            handle.remove()
    return made + unfolded


def build_network(model: Builder, plan: Plan, n_channels: int, n_classes: int) -> nn.Module:
    """Return a freshly initialised network; the weights depend on torch's global seed.

    Raises:
        ConfigError: Unknown model or option.
    """
    network: nn.Module = select("model", MODELS, model.name, model.options)(
        n_channels, n_classes, make_grid(plan)
    )
    return network


def choose_device(wanted: str) -> torch.device:
    """Return the device for "auto", "cpu" or "cuda".

    Raises:
        ConfigError: Another name.
        ResourceError: CUDA was asked for and is not there.
    """
    if wanted not in DEVICES:
        raise ConfigError(
            f"no device is called `{wanted}`", hint=suggest(wanted, DEVICES), code="UNKNOWN_DEVICE"
        )
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ResourceError(
            "no CUDA device is available",
            hint="use --device cpu, or install a CUDA build of torch",
            code="NO_CUDA",
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
