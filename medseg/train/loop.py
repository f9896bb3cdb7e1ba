"""The training loop, as plain functions.

seed -> batches(epoch) -> autocast forward -> loss -> backward -> clip -> step -> average -> schedule.
Observers read the state (log, checkpoint, progress); they do not steer it. Randomness derives from
(seed, epoch, sample): on a CPU with a fixed number of threads a resumed run is bit-identical.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor, nn

from medseg.data.loader import Batch
from medseg.data.sampling import blend_scores
from medseg.losses.ranks import alone
from medseg.train.diagnosis import Watch, count_labels, find_faults, new_census
from medseg.train.distributed import average_step, gather, sum_over_ranks
from medseg.train.encoder import freeze_encoder
from medseg.train.precision import autocast
from medseg.train.schedule import rate_at
from medseg.train.settings import Train
from medseg.train.state import TrainState

Loss = Callable[[Tensor | list[Tensor], Tensor], Tensor]
Validate = Callable[[nn.Module], dict[str, float]]
Observe = Callable[[TrainState, dict[str, float]], None]


@dataclass(frozen=True)
class Job:
    """What a training is made of, apart from its state.

    Args:
        settings: The recipe; `epochs` is final (a time budget is turned into it before).
        batches: (epoch, iterations) -> batches of image_BCIJK, label_BIJK and case ids.
        loss: Of the network's output and the label.
        device, dtype: Where, and in which precision, the forward pass runs.
        dims: 2 or 3; in 2D the last axis of a batch is one voxel and is dropped.
        seed: Of the run.
        validate: Averaged network -> named scores; "dice" decides the early stop.
        validate_training: The same of some training cases, for the gap between the two.
        holders: Name of each class -> how many training cases hold it, in the order of the classes.
        is_compiled: Whether the network was compiled; scoring then runs without.
        case_scores: Gets 1 - loss of the training cases after each epoch, where `batches` draws by it.
    """

    settings: Train
    batches: Callable[[int, int], Iterable[Batch]]
    loss: Loss
    device: torch.device
    dtype: torch.dtype
    dims: int
    seed: int
    validate: Validate | None = None
    validate_training: Validate | None = None
    holders: Mapping[str, int] = field(default_factory=dict)
    is_compiled: bool = False
    case_scores: dict[str, float] | None = None


def train(state: TrainState, job: Job, observers: Iterable[Observe] = ()) -> TrainState:
    """Train until the last epoch or the early stop; `state` may come from a checkpoint.

    Raises:
        ResourceError: LOSS_NOT_FINITE, with the cases; nothing was observed since the last whole epoch.
    """
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
            numbers |= _score(state, job, job.validate)
        numbers["time/epoch_s"] = time.perf_counter() - started
        state.history.append(numbers)
        state.note_findings(find_faults(state.history, state.census, settings, job.holders))
        for observe in observers:
            observe(state, numbers)
    return state


def _train_epoch(state: TrainState, job: Job) -> float:
    settings = job.settings
    state.network.train()
    freeze_encoder(state.network, settings, state.epoch)
    iterations = settings.iterations_per_epoch
    total = iterations * settings.epochs
    watch = Watch(state.epoch, checks_gradient=not state.scaler.is_enabled())
    census = new_census(job.device)
    losses, drawn = [], []
    rated: list[Tensor] = []  # loss of each sample, a tensor a batch
    for iteration, batch in enumerate(job.batches(state.epoch, iterations)):
        step = state.epoch * iterations + iteration
        factor = rate_at(step, total, schedule=settings.schedule, warmup_share=settings.warmup_share)
        for group in state.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor * group.get("share", 1.0)
        rating = {} if job.case_scores is None else {"rated": rated}
        numbers = train_step(state, job, batch, census, **rating)
        watch.look(iteration, batch.cases, numbers)
        losses.append(numbers[0])
        drawn.append(batch.cases)
    watch.close()
    state.census += sum_over_ranks(census).cpu()
    if job.case_scores is not None:
        rate_cases(job.case_scores, drawn, [values.tolist() for values in rated])
        state.case_scores = job.case_scores
    return float(torch.stack(losses).mean())


def rate_cases(
    scores: dict[str, float], drawn: Sequence[tuple[str, ...]], losses: Sequence[Sequence[float]]
) -> None:
    """Blend 1 - loss of each sample into the score of its case, in place; all ranks get the same.

    Args:
        scores: By case id.
        drawn: This rank's cases, batch by batch.
        losses: Of this rank's samples, batch by batch.
    """
    own = [list(zip(cases, values, strict=True)) for cases, values in zip(drawn, losses, strict=True)]
    for ranks in zip(*gather(own)):
        # Rank r has samples r, r + world, ... of the batch: all ranks in turn give the order of one process.
        samples = [sample for turn in zip_longest(*ranks) for sample in turn if sample]
        scores.update(blend_scores(scores, [s[0] for s in samples], [1 - s[1] for s in samples]))


def train_step(
    state: TrainState,
    job: Job,
    batch: Batch,
    census: Tensor | None = None,
    *,
    rated: list[Tensor] | None = None,
) -> Tensor:
    """Do one step; return loss and gradient norm of all ranks, and the mean of this rank's own output.

    The loss is that of all ranks on each of them, so it does not tell which of them it was spoilt by.

    Args:
        state: Changes.
        job: The recipe.
        batch: This rank's share of a batch; it passes the network in `accumulate` parts.
        census: Gets what the labels hold.
        rated: Gets the loss of each sample by itself.
    """
    image, label = (tensor.to(job.device, non_blocking=True) for tensor in (batch.image, batch.label))
    if job.dims == 2:
        image, label = image.squeeze(-1), label.squeeze(-1)
    if census is not None:
        census += count_labels(label)
    state.optimizer.zero_grad(set_to_none=True)
    total, own = torch.zeros((), device=job.device), torch.zeros((), device=job.device)
    alone_B: list[Tensor] = []
    for image_part, label_part in zip(*(t.chunk(job.settings.accumulate) for t in (image, label))):
        with autocast(job.device, job.dtype):
            output = state.network(image_part)
            loss = job.loss(output, label_part) * (len(image_part) / len(image))
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        finest = (output if isinstance(output, Tensor) else output[0]).detach()
        own += finest.float().mean()
        if rated is not None:
            alone_B += rate_samples(job.loss, finest, label_part)
    if rated is not None:
        rated.append(torch.stack(alone_B))
    mean = average_step(state.network, total)  # before unscaling: all ranks see one another's inf
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), job.settings.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.update_average(job.settings.ema_decay)
    return torch.stack([mean, norm, own])


def _score(state: TrainState, job: Job, validate: Validate) -> dict[str, float]:
    """Return the scores of held-out cases and, half-way and at the end, of training cases."""
    settings = job.settings
    with averaged(state), _uncompiled(job):
        scores = validate(state.network)
        numbers = {f"val/{name}": value for name, value in scores.items()}
        dice = scores.get("dice", -1.0)
        if dice > state.best_dice:
            state.best_dice, state.best_epoch = dice, state.epoch
            state.best = {name: value.clone() for name, value in state.average.items()}
        elif settings.early_stop_epochs and state.epoch - state.best_epoch >= settings.early_stop_epochs:
            state.is_stopped = True
        is_half = 2 * (state.epoch - settings.validate_every) < settings.epochs <= 2 * state.epoch
        is_end = state.is_stopped or state.epoch == settings.epochs
        if job.validate_training and (is_half or is_end):
            numbers["train/dice"] = job.validate_training(state.network)["dice"]
    return numbers


@torch.no_grad()
def rate_samples(loss: Loss, logits_BC: Tensor, label_B: Tensor) -> list[Tensor]:
    """Return the loss of each sample by itself: its batch's would rate an easy case by a hard neighbour."""
    with alone():
        return [loss(logits_BC[n : n + 1], label_B[n : n + 1]) for n in range(len(label_B))]


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


@contextmanager
def _uncompiled(job: Job) -> Iterator[None]:
    """Score without compiled code: windows and modes would each be compiled anew."""
    with torch.compiler.set_stance("force_eager") if job.is_compiled else nullcontext():
        yield
