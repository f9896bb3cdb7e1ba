"""Less memory for the same gradients: activations that are computed again when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

WEIGHTED = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


def checkpoint_blocks(network: nn.Module) -> int:
    """Let every block keep only its input for the backward pass (Chen et al. 2016); return how many.

    A block is a smallest module with two or more convolutions or linear layers. Values and gradients are
    those of the plain network: dropout is repeated, and running statistics are counted once.
    """
    blocks = find_blocks(network)
    for block in blocks:
        block.forward = partial(_run, block, block.forward)
    return len(blocks)


def find_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the smallest modules that hold two or more convolutions or linear layers."""

    def count(module: nn.Module) -> int:
        return sum(isinstance(part, WEIGHTED) for part in module.modules())

    return [
        module
        for module in network.modules()
        if count(module) > 1
        and not isinstance(module, (nn.ModuleList, nn.ModuleDict))
        and not any(count(child) > 1 for child in module.children())
    ]


def _run(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **named)
    if not _find_norms(block):  # compilers know no contexts
        return checkpoint(forward, *inputs, use_reentrant=False, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, block), **named)


def _find_norms(block: nn.Module) -> list[_BatchNorm]:
    """Return what keeps running statistics."""
    return [m for m in block.modules() if isinstance(m, _BatchNorm) and m.num_batches_tracked is not None]


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds the first pass and the second."""
    return nullcontext(), _keep_statistics(block)


@contextmanager
def _keep_statistics(block: nn.Module) -> Iterator[None]:
    norms = _find_norms(block)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # normalises by the batch, as before, and learns nothing from it
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.num_batches_tracked.sub_(1)  # type: ignore[union-attr]
