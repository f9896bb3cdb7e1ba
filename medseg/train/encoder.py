"""The encoder's own pace in fine-tuning: frozen at first, and slower later."""

from __future__ import annotations

import re

import torch
from torch import nn

from medseg.core.errors import ConfigError
from medseg.train.settings import Train

# Parts called so by our networks; MONAI's UNet nests its levels, the way down is the 0 of each.
ENCODER = re.compile(
    r"(^|\.)(encoder|backbone|stem|downs|swinViT)\."
    r"|(^|\.)model\.(1\.submodule\.)*(0\.|1\.submodule\.(?!\d))"
)


def find_encoder(network: nn.Module) -> set[str]:
    """Return the names of the encoder's parameters.

    Raises:
        ConfigError: ENCODER_UNKNOWN, where no part of the network is called so.
    """
    names = {name for name, _ in network.named_parameters() if ENCODER.search(name)}
    if not names:
        raise ConfigError(
            "this network names no encoder",
            hint="leave train.freeze_epochs at 0 and train.encoder_rate at 1, or use another network",
            code="ENCODER_UNKNOWN",
        )
    return names


def slow_encoder(optimizer: torch.optim.Optimizer, network: nn.Module, share: float) -> None:
    """Split the optimizer's groups, so that the encoder has `share` of the learning rate."""
    if share == 1:
        return
    names = find_encoder(network)
    inside = {id(parameter) for name, parameter in network.named_parameters() if name in names}
    for group in list(optimizer.param_groups):
        slow = [parameter for parameter in group["params"] if id(parameter) in inside]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in inside]
        if slow:
            optimizer.add_param_group({**group, "params": slow, "share": group.get("share", 1.0) * share})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def freeze_encoder(network: nn.Module, settings: Train, epoch: int) -> None:
    """Stop or start learning in the encoder, as the epoch wants it; frozen norms keep their statistics."""
    if not settings.freeze_epochs:
        return
    is_frozen = epoch < settings.freeze_epochs
    names = find_encoder(network)
    for name, parameter in network.named_parameters():
        if name in names:
            parameter.requires_grad_(not is_frozen)
    for name, module in network.named_modules():
        if is_frozen and ENCODER.search(f"{name}."):
            module.eval()
