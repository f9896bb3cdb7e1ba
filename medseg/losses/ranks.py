"""Sums over the processes of a torchrun job, so that N ranks train as one process would.

A rank sees a share of the global batch, and after backward the gradients are averaged over ranks. Averaging
the losses of the shares is another loss than that of the whole: a rank with few valid voxels would weigh each
of them more, and a Dice of parts is no Dice of the whole. So every sum that a loss divides, and every count
that it divides by, goes through `sum_ranks`. Each rank then computes the loss f(S) of the global sums
S = S_1 + ... + S_N, and its gradient holds N f'(S) dS_r; the mean over ranks is f'(S) (dS_1 + ... + dS_N),
which is the gradient of one process with the global batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_is_alone: ContextVar[bool] = ContextVar("is_alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Add up nothing for a while: what one rank tries by itself, no other rank answers."""
    before = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(before)


def is_shared() -> bool:
    """Whether other ranks have a part of the batch, and answer."""
    return not _is_alone.get() and dist.is_available() and dist.is_initialized()


def sum_ranks(local: Tensor) -> Tensor:
    """Return the sum of `local` over all ranks; its gradient is that of `local`, times their number.

    Alone, `local` itself. All ranks must call it equally often and with equal shapes.
    """
    if not is_shared():
        return local
    total = local.detach().clone()
    dist.all_reduce(total)
    # The value is the total: the difference of equals is 0, and adds the gradient alone.
    return total + (local - local.detach()) * dist.get_world_size()


def divide_sums(total: Tensor, count: Tensor) -> Tensor:
    """Return the global `total` over the global `count`, element by element; 0 / 0 is 0."""
    totals, counts = sum_ranks(torch.stack([total, count.to(total.dtype)])).unbind()
    return totals / torch.where(counts > 0, counts, 1)
