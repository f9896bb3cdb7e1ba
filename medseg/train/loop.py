"""The training loop, as plain functions.

seed -> batches(epoch) -> autocast forward -> loss -> backward -> clip -> step -> average -> schedule.
Observers read the state (log, checkpoint, progress); they do not steer it. Randomness derives from
(seed, epoch, sample): on a CPU with a fixed number of threads a resumed run is bit-identical.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medseg.core.errors import ResourceError
from medseg.train.precision import autocast
from medseg.train.schedule import rate_at
from medseg.train.settings import Train
from medseg.train.state import TrainState

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor | list[Tensor], Tensor], Tensor]
Validate = Callable[[nn.Module], dict[str, float]]
Observe = Callable[[TrainState, dict[str, float]], None]


@dataclass(frozen=True)
class Job:
    """What a training is made of, apart from its state.

    Args:
        settings: The recipe; `epochs` is final (a time budget is turned into it before).
        batches: (epoch, iterations) -> (image_BCIJK, label_BIJK) batches.
        loss: Of the network's output and the label.
        device, dtype: Where, and in which precision, the forward pass runs.
        dims: 2 or 3; in 2D the last axis of a batch is one voxel and is dropped.
        seed: Of the run.
        validate: Averaged network -> named scores; "dice" decides the early stop.
    """

    settings: Train
    batches: Callable[[int, int], Iterable[Batch]]
    loss: Loss
    device: torch.device
    dtype: torch.dtype
    dims: int
    seed: int
    validate: Validate | None = None


def train(state: TrainState, job: Job, observers: Iterable[Observe] = ()) -> TrainState:
    """Train until the last epoch or the early stop; `state` may come from a checkpoint."""
    settings = job.settings
    while state.epoch < settings.epochs and not state.is_stopped:
        started = time.perf_counter()
        torch.manual_seed(job.seed * 1_000_003 + state.epoch)  # dropout
        loss = _train_epoch(state, job)
        state.epoch += 1
        numbers = {
            "epoch": float(state.epoch),
            "train/loss": loss,
            "train/learning_rate": float(state.optimizer.param_groups[0]["lr"]),
        }
        if job.validate and (state.epoch % settings.validate_every == 0 or state.epoch == settings.epochs):
            with averaged(state):
                scores = job.validate(state.network)
            numbers |= {f"val/{name}": value for name, value in scores.items()}
            _note_best(state, settings, scores.get("dice", -1.0))
        numbers["time/epoch_s"] = time.perf_counter() - started
        state.history.append(numbers)
        for observe in observers:
            observe(state, numbers)
    return state


def _train_epoch(state: TrainState, job: Job) -> float:
    state.network.train()
    iterations = job.settings.iterations_per_epoch
    total = iterations * job.settings.epochs
    losses = []
    for iteration, batch in enumerate(job.batches(state.epoch, iterations)):
        step = state.epoch * iterations + iteration
        factor = rate_at(step, total, schedule=job.settings.schedule, warmup_share=job.settings.warmup_share)
        for group in state.optimizer.param_groups:
            group["lr"] = job.settings.learning_rate * factor * group.get("share", 1.0)
        losses.append(train_step(state, job, batch))
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise ResourceError(
            f"the loss became {mean} in epoch {state.epoch + 1}",
            hint="lower train.learning_rate, or set train.amp=off",
            code="LOSS_NOT_FINITE",
        )
    return mean


def train_step(state: TrainState, job: Job, batch: Batch) -> Tensor:
    """Do one step and return its detached loss."""
    image, label = (tensor.to(job.device, non_blocking=True) for tensor in batch)
    if job.dims == 2:
        image, label = image.squeeze(-1), label.squeeze(-1)
    state.optimizer.zero_grad(set_to_none=True)
    with autocast(job.device, job.dtype):
        loss = job.loss(state.network(image), label)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    state.scaler.unscale_(state.optimizer)
    average_gradients(state.network)
    nn.utils.clip_grad_norm_(state.network.parameters(), job.settings.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.update_average(job.settings.ema_decay)
    return loss.detach()


def average_gradients(network: nn.Module) -> None:
    """Average gradients over all ranks of a torchrun job; alone, do nothing.

    One flat all-reduce: DistributedDataParallel hides more latency, but wraps the module and its
    names, and the networks here are small.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.view(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))


@contextmanager
def averaged(state: TrainState) -> Iterator[None]:
    """Put the averaged weights into the network for a while, in eval mode."""
    own = {name: value.detach().clone() for name, value in state.network.state_dict().items()}
    state.network.load_state_dict(state.average)
    state.network.eval()
    try:
        yield
    finally:
        state.network.load_state_dict(own)
        state.network.train()


def _note_best(state: TrainState, settings: Train, dice: float) -> None:
    if dice > state.best_dice:
        state.best_dice, state.best_epoch = dice, state.epoch
    elif settings.early_stop_epochs and state.epoch - state.best_epoch >= settings.early_stop_epochs:
        state.is_stopped = True
