"""Optimizers: `(network, ends, rate, decay, *, options) -> torch.optim.Optimizer`.

`ends` is (image channels, classes): by them a builder knows the first and the last layers. A group may
hold "share", a factor on the learning rate that the loop sets. To add one: a function and a line in
`OPTIMIZERS`; `tests/train/test_train_optimizers.py` then holds it to the contract.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Ends = tuple[int, int]
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steepest at zero, singular values end in 0.7..1.2
RMS = 0.2  # of a typical AdamW update: Liu et al. 2025 (Moonlight), section 2.2
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def sgd(
    network: nn.Module, ends: Ends, rate: float, decay: float, *, momentum: float = 0.99
) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum (nnU-Net, Isensee et al. 2021)."""
    groups = split_decayed(network.parameters())
    return torch.optim.SGD(groups, rate, momentum=momentum, nesterov=momentum > 0, weight_decay=decay)


def adamw(
    network: nn.Module,
    ends: Ends,
    rate: float,
    decay: float,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019)."""
    return torch.optim.AdamW(split_decayed(network.parameters()), rate, (beta1, beta2), weight_decay=decay)


def muon(
    network: nn.Module,
    ends: Ends,
    rate: float,
    decay: float,
    *,
    momentum: float = 0.95,
    adamw_share: float = 1.0,
    steps: int = 5,
) -> torch.optim.Optimizer:
    """Return Muon for the hidden weights and AdamW for all others (Jordan et al. 2024).

    Args:
        network: Its hidden convolutions and linear layers are orthogonalised as (out, in x kernel).
        ends: (image channels, classes); layers that begin or end there are AdamW's.
        rate: Of both: Muon's updates have the size of AdamW's.
        decay: Of weights, decoupled.
        momentum: Of Muon, in Nesterov's form.
        adamw_share: Learning rate of AdamW's weights as a share of `rate`.
        steps: Newton-Schulz iterations.
    """
    hidden = find_hidden(network, ends)
    known = {id(parameter) for parameter in hidden}
    others = [parameter for parameter in network.parameters() if id(parameter) not in known]
    groups: list[dict[str, Any]] = [{"params": hidden, "is_muon": True}] if hidden else []
    groups += [{**group, "share": adamw_share} for group in split_decayed(others)]
    return Muon(groups, lr=rate, weight_decay=decay, momentum=momentum, steps=steps)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": adamw, "sgd": sgd, "muon": muon}


def split_decayed(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Return groups of weights and of norms and biases; the latter are not decayed."""
    every = list(parameters)
    weights = [parameter for parameter in every if parameter.ndim > 1]
    kept = [parameter for parameter in every if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def find_hidden(network: nn.Module, ends: Ends) -> list[Tensor]:
    """Return the weights of dense convolutions and linear layers that touch neither image nor classes.

    Depthwise and grouped kernels are no matrices between layers, and stay out.
    """
    found: dict[int, Tensor] = {}
    for module in network.modules():
        if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
            is_hidden = module.groups == 1 and module.in_channels != ends[0]
            is_hidden &= module.out_channels != ends[1]
        elif isinstance(module, nn.Linear):
            is_hidden = module.in_features != ends[0] and module.out_features != ends[1]
        else:
            continue
        if is_hidden:
            found[id(module.weight)] = module.weight
    return list(found.values())


class Muon(torch.optim.Optimizer):
    """Muon in the groups that are marked `is_muon`, AdamW in the others: one state, one checkpoint.

    torch's own Muon takes 2-D weights only and works in bfloat16, which most CPUs emulate. This one
    flattens kernels, stays in float32 and iterates on the small Gram matrix (see `orthogonalize`).
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        steps: int = 5,
    ) -> None:
        standard = {"is_muon": False, "betas": (0.9, 0.999), "eps": 1e-8}
        super().__init__(
            groups, standard | {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "steps": steps}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            update = self._update_muon if group["is_muon"] else self._update_adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, group)

    def _update_muon(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(momentum, group["momentum"]).flatten(1)  # Nesterov
        scale = RMS * math.sqrt(max(ahead.shape))  # an orthogonal m x n matrix has RMS 1 / sqrt(max(m, n))
        update = orthogonalize(ahead, group["steps"]).view_as(parameter)
        parameter.add_(update, alpha=-group["lr"] * scale)

    def _update_adamw(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        step = int(state["step"])
        spread = (state["square"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(state["mean"], spread, value=-group["lr"] / (1 - beta1**step))


def orthogonalize(matrix_MN: Tensor, steps: int = 5) -> Tensor:
    """Return about U V^T of the matrix U S V^T: every direction with equal weight.

    Newton-Schulz X <- (a + b G + c G^2) X with G = X X^T (Jordan et al. 2024). All factors are
    polynomials of the first G and commute, so they are multiplied up as m x m matrices and X is touched
    twice, not ten times: for a kernel of 256 x 6912 a fifth of the work.

    Args:
        matrix_MN: (m, n); computed in float32.
        steps: Iterations; 5 bring singular values above a hundredth of the norm to 0.7..1.2.
    """
    if matrix_MN.shape[0] > matrix_MN.shape[1]:
        return orthogonalize(matrix_MN.mT, steps).mT
    a, b, c = QUINTIC
    x: Tensor = matrix_MN.float()
    x = x / x.norm().clamp_min(1e-7)
    gram = x @ x.mT
    unit = torch.eye(len(gram), device=x.device)
    product = unit
    for step in range(steps):
        factor = torch.addmm(unit, gram, gram, beta=a, alpha=c).add_(gram, alpha=b)
        product = factor @ product
        if step + 1 < steps:
            gram = factor @ gram @ factor
    orthogonal_MN: Tensor = product @ x
    return orthogonal_MN.to(matrix_MN.dtype)
