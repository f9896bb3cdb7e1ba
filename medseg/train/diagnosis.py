"""What can go wrong in a training, each found early and named in one line.

`Watch` looks at every step and stops; the other functions look at an epoch and warn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medseg.core.errors import ResourceError
from medseg.core.volume import IGNORED
from medseg.train.distributed import gather
from medseg.train.settings import Train

VALUES = 256  # of a label; a census holds the batches with each, then samples, then samples with foreground
ENOUGH_SAMPLES = 200  # to expect every class among them
FEW = 0.02  # share of samples with foreground below which sampling is at fault
RISE = 2.0  # times the loss at the start: no longer noise
PROGRESS = 0.2  # of the loss at the start: enough to be lost
LOST = 0.5  # share of the progress made
LASTING = 3  # epochs in a row
STUCK = 0.01  # Dice
STUCK_SCORES = 3
EACH = "val/dice_"  # and the name of a class, or of a region
GAP = 0.1  # Dice

History = Sequence[Mapping[str, float]]


class Finding(NamedTuple):
    """A fault with the class it concerns, if any; one line."""

    code: str
    subject: str
    message: str


class Watch:
    """Checks each step's loss and gradient one step later, so that a GPU is never waited for.

    A checkpoint is written between epochs and `close` comes before: no number that is none gets there.

    Args:
        epoch: Epochs done before.
        checks_gradient: Not where gradients are scaled for fp16: the scaler skips steps that overflow.
    """

    def __init__(self, epoch: int, *, checks_gradient: bool) -> None:
        self.epoch = epoch
        self.checks_gradient = checks_gradient
        self._waiting: tuple[int, tuple[str, ...], Tensor, torch.cuda.Event | None] | None = None

    def look(self, iteration: int, cases: tuple[str, ...], numbers: Tensor) -> None:
        """Take what `train_step` returned of a step, and check the step before."""
        event = None
        if numbers.is_cuda:
            target = torch.empty(numbers.shape, pin_memory=True)
            numbers = target.copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        before, self._waiting = self._waiting, (iteration, cases, numbers, event)
        self._check(before)

    def close(self) -> None:
        """Check the last step."""
        last, self._waiting = self._waiting, None
        self._check(last)

    def _check(self, step: tuple[int, tuple[str, ...], Tensor, torch.cuda.Event | None] | None) -> None:
        if step is None:
            return
        iteration, cases, numbers, event = step
        if event:
            event.synchronize()
        loss, norm, own = numbers.tolist()
        if math.isfinite(loss) and (math.isfinite(norm) or not self.checks_gradient):
            return
        what, value = ("gradient", norm) if math.isfinite(loss) else ("loss", loss)
        ranks = gather((own, cases))  # every rank sees the same averages and comes here
        guilty = [names for number, names in ranks if not math.isfinite(number)] or [n for _, n in ranks]
        named = ", ".join(dict.fromkeys(name for names in guilty for name in names))
        raise ResourceError(
            f"the {what} became {value} in epoch {self.epoch + 1}, iteration {iteration + 1}"
            + (f", with cases {named}" if named else ""),
            hint="look at these cases; lower train.learning_rate, or set train.amp=off. "
            f"What was saved after epoch {self.epoch} is untouched",
            code="LOSS_NOT_FINITE",
        )


def new_census(device: torch.device) -> Tensor:
    """Return a census of nothing."""
    return torch.zeros(VALUES + 2, dtype=torch.int64, device=device)


def count_labels(label_B: Tensor) -> Tensor:
    """Return a batch's census: (value is present, ..., samples, samples with foreground).

    Args:
        label_B: (B, *spatial), 0..255.
    """
    present = torch.zeros(VALUES, dtype=torch.int64, device=label_B.device)
    present.index_fill_(0, label_B.flatten(), 1)
    has_label_B = ((label_B > 0) & (label_B != IGNORED)).flatten(1).any(1)
    samples = torch.full((1,), len(label_B), dtype=torch.int64, device=label_B.device)
    return torch.cat([present, samples, has_label_B.sum()[None]])


def find_faults(
    history: History, census: Tensor, settings: Train, holders: Mapping[str, int]
) -> list[Finding]:
    """Return what an epoch's end shows to be wrong."""
    is_end = len(history) == settings.epochs
    return [
        *find_unsampled(census, holders, is_end=is_end),
        *find_divergence(history, settings.learning_rate),
        *find_stuck(history),
        *find_gap(history[-1]),
    ]


def find_unsampled(census: Tensor, holders: Mapping[str, int], *, is_end: bool) -> list[Finding]:
    """Return classes that no patch has held, or, where hardly any patch holds one, that fact alone.

    Args:
        census: Sums of `count_labels`.
        holders: Class -> training cases that hold it, in the order of classes 1, 2, ...
        is_end: Whether the training ends; before, `ENOUGH_SAMPLES` are awaited.
    """
    batches, samples, labelled = census[:VALUES].tolist(), int(census[VALUES]), int(census[VALUES + 1])
    if not holders or not (is_end or samples >= ENOUGH_SAMPLES):
        return []
    if labelled < FEW * samples:
        text = (
            f"{labelled} of {samples} patches hold a label: check that labels fit their images, "
            "and raise train.foreground_share"
        )
        return [Finding("PATCHES_WITHOUT_LABELS", "", text)]
    return [
        Finding(
            "CLASS_NOT_SAMPLED",
            name,
            f"none of {samples} patches holds `{name}`; {count} training cases do: "
            + ("raise train.foreground_share" if count else "take it out of data.labels, or add cases"),
        )
        for value, (name, count) in enumerate(holders.items(), start=1)
        if not batches[value]
    ]


def find_divergence(history: History, learning_rate: float) -> list[Finding]:
    """Return a finding where the loss is far above that of the first epoch, or most progress was lost again.

    A loss with an upper bound, as all kinds of Dice have, cannot rise far above its start: what tells there
    is that for `LASTING` epochs more than half of what was gained before them is gone.
    """
    losses = [row["train/loss"] for row in history]
    first, last, before = losses[0], losses[-1], losses[:-LASTING]
    start, epoch = first, 1
    gain = first - min(before, default=first)
    if gain > PROGRESS * abs(first) and min(losses[-LASTING:]) - min(before) > LOST * gain:
        start = min(before)
        epoch = losses.index(start) + 1
    elif not last > RISE * first > 0:
        return []
    text = (
        f"the loss rose from {start:.3g} in epoch {epoch} to {last:.3g} in epoch {len(history)}: "
        f"lower train.learning_rate (now {learning_rate:g})"
    )
    return [Finding("LEARNING_RATE_DIVERGES", "", text)]


def find_stuck(history: History) -> list[Finding]:
    """Return a finding where the Dice of all classes, or of one class or region, was never above zero."""
    scores = [row for row in history if "val/dice" in row]
    if len(scores) < STUCK_SCORES:
        return []
    tail = f"in all {len(scores)} validations up to epoch {len(history)}"
    if all(row["val/dice"] < STUCK for row in scores):
        text = f"Dice stays at 0 {tail}: check labels and intensities; try another train.learning_rate"
        return [Finding("DICE_STUCK", "", text)]
    best: dict[str, float] = {}
    for row in scores:
        for key, value in row.items():
            if key.startswith(EACH):
                best[key.removeprefix(EACH)] = max(value, best.get(key.removeprefix(EACH), 0.0))
    return [
        Finding(
            "DICE_STUCK",
            name,
            f"Dice of `{name}` stays at 0 {tail}: raise train.foreground_share or its class weight",
        )
        for name, value in best.items()
        if value < STUCK
    ]


def find_gap(numbers: Mapping[str, float]) -> list[Finding]:
    """Return a finding where training cases score far better than held-out ones."""
    if "train/dice" not in numbers or numbers["train/dice"] - numbers["val/dice"] <= GAP:
        return []
    text = (
        f"Dice is {numbers['train/dice']:.3f} on training cases, {numbers['val/dice']:.3f} on held-out ones: "
        "it overfits; stronger augmentation, more cases, a smaller model or fewer epochs"
    )
    return [Finding("GENERALIZATION_GAP", "", text)]
