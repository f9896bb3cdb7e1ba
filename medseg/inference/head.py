"""Split a network into a trunk and its final 1x1 convolution.

The convolution is linear and looks at one voxel at a time, so it may come after windows (and mirrored views)
were blended: where a network has fewer features than classes, less is blended and held.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # of the largest logit of the probe: trunk and head take other kernels than the whole


@dataclass(frozen=True, eq=False)
class Head:
    """The last layer: logits = weight @ features + bias.

    Args:
        weight: (C, F).
        bias: (C,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features_F: Tensor) -> Tensor:
        """Map (F, *spatial) features to (C, *spatial) logits."""
        flat = features_F.reshape(len(features_F), -1)
        logits = torch.addmm(self.bias[:, None], self.weight, flat)
        return logits.view(-1, *features_F.shape[1:])

    def to(self, device: torch.device) -> Head:
        """Return the same layer on a device."""
        return Head(self.weight.to(device), self.bias.to(device))


@torch.inference_mode()
def split_head(network: nn.Module, probe_BC: Tensor) -> tuple[nn.Module, Head] | None:
    """Return trunk and head; None where the network does not end in such a convolution.

    The trunk shares all weights with the network, which stays as it is.

    Args:
        network: In eval mode.
        probe_BC: (1, channels, *window) that the network takes; the split must give the same logits on it.
    """
    expected, name = _find_last(network, probe_BC)
    if name is None:
        return None
    conv = network.get_submodule(name)
    assert isinstance(conv, (nn.Conv2d, nn.Conv3d))
    weight = conv.weight.detach().flatten(1)
    bias = torch.zeros_like(weight[:, 0]) if conv.bias is None else conv.bias.detach()
    trunk, head = _without(network, name.split(".")), Head(weight, bias)
    features = trunk(probe_BC)[0]
    if len(features) != weight.shape[1] or features.shape[1:] != expected.shape[2:]:
        return None
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    is_equal = float((head(features.float()) - expected[0].float()).abs().max()) <= limit
    return (trunk, head) if is_equal else None


def _find_last(network: nn.Module, probe_BC: Tensor) -> tuple[Tensor, str | None]:
    """Return the network's output and the pointwise convolution whose output it is, or a crop of."""
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # memory of a freed tensor would be used again, by another layer

    def note(name: str) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            kept.append(output)
            made[output.untyped_storage().data_ptr()] = name

        handles.append(network.get_submodule(name).register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in network.named_modules():
        if name and _is_pointwise(module):
            note(name)
    try:
        output: Tensor = network(probe_BC)
    finally:
        for handle in handles:
            handle.remove()
    return output, made.get(output.untyped_storage().data_ptr())


def _is_pointwise(module: nn.Module) -> bool:
    return (
        isinstance(module, (nn.Conv2d, nn.Conv3d))
        and set(module.kernel_size) == {1}
        and set(module.stride) == {1}
        and set(module.padding) <= {0}
        and module.groups == 1
    )


def _without(module: nn.Module, path: list[str]) -> nn.Module:
    """Return the module with the layer at `path` left out; everything beside the path is shared."""
    if not path:
        return nn.Identity()
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    twin._modules[path[0]] = _without(module.get_submodule(path[0]), path[1:])
    return twin
