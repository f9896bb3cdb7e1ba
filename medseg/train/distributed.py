"""Several processes, one training: what `torchrun` sets up."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield (rank, world); joins the group that torchrun describes in the environment, if any.

    Inside another one it yields that one's. A second group after the first would meet on the same keys of
    torchrun's store, where one rank reads what the other left there for the first.
    """
    if is_joined():
        yield dist.get_rank(), dist.get_world_size()
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    # Its signatures take the group of the moment of import as a default, and optimizers import it: the group
    # would outlive its end, and a thread of it that frees a tensor while Python ends aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def is_main_process() -> bool:
    """Whether this process is the one that writes files: rank 0 of a torchrun job, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_joined() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized()


def agree(value: T) -> T:
    """Return rank 0's value on every rank."""
    if not is_joined():
        return value
    box = [value]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in their order."""
    if not is_joined():
        return [value]
    box: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box


def sum_over_ranks(numbers: Tensor) -> Tensor:
    """Add up a tensor of every rank, in place; alone, do nothing."""
    if is_joined():
        dist.all_reduce(numbers)
    return numbers


def average_step(network: nn.Module, loss: Tensor) -> Tensor:
    """Average gradients and the loss over all ranks; return the loss.

    A plain mean, however many samples each rank has: the losses divide by the counts of all ranks
    (`medseg/losses/ranks.py`). One flat all-reduce: DistributedDataParallel hides more latency, but wraps
    the module and its names, and the networks here are small. Alone, nothing changes.
    """
    if not is_joined():
        return loss
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss.float().view(1)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, torch.split(flat[:-1], [g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))
    return flat[-1]
