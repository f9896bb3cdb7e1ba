"""Start from another model's weights, also where channels, classes or kernels differ.

Per axis of a weight: a channel axis is brought over by name, a class axis too, any other must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medseg.core.errors import CheckpointError
from medseg.train.sketch import sketch

Build = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class Ends:
    """What a network's first and last layers mean: names of its channels and of its classes, 0 first."""

    channels: tuple[str, ...]
    classes: tuple[str, ...]


class Moved(NamedTuple):
    """What became of one weight: copied, adapted, or fresh, and why."""

    weight: str
    how: str
    why: str


def transfer(source: nn.Module, target: nn.Module, old: Ends, new: Ends, build: Build) -> list[Moved]:
    """Bring over every weight that can be, in place, and say what became of each.

    A first layer takes the kernel of a channel of the same name, or else the mean over the old channels;
    all are scaled by old / new count, so that the sum over channels keeps its size. A last layer takes the
    rows of classes of the same name; other classes keep their fresh weights.

    Args:
        source: Network of the old model.
        target: Freshly initialised.
        old: What the ends of `source` mean.
        new: Those of `target`.
        build: (channels, classes) -> a network as `target`, of so many.

    Raises:
        CheckpointError: MODEL_MISFIT, where less than half of the target's weights fit.
    """
    given, own = source.state_dict(), target.state_dict()
    roles = dict(_find_roles(target, new, build))
    moved, filled = [], 0
    for name, fresh in own.items():
        value, entry = _move(name, given.get(name), fresh, roles.get(name, {}), (old, new))
        moved.append(entry)
        if value is not None:
            own[name] = value
            filled += value.numel()
    if filled * 2 < sum(value.numel() for value in own.values()):
        count = sum(entry.how != "fresh" for entry in moved)
        raise CheckpointError(
            f"{count} of {len(own)} weights of the model fit this network",
            hint="start from a model of the same network and a similar plan",
            code="MODEL_MISFIT",
        )
    target.load_state_dict(own)
    return moved


def summarize(moved: Sequence[Moved]) -> str:
    """Return "57 copied, 2 adapted, 1 fresh", and what is not plainly copied."""
    counts = {how: sum(entry.how == how for entry in moved) for how in ("copied", "adapted", "fresh")}
    lines = [f"  {entry.how:<8} {entry.weight}: {entry.why}" for entry in moved if entry.how != "copied"]
    return "\n".join([", ".join(f"{count} {how}" for how, count in counts.items()), *lines])


def _find_roles(network: nn.Module, ends: Ends, build: Build) -> Iterator[tuple[str, dict[int, str]]]:
    """Yield (weight, {axis: "channel" or "class"}).

    An end is what grows by one when a channel, or a class, is added. A hidden layer may be as wide as there
    are classes, and the count alone would not tell it from a head.
    """
    channels, classes = len(ends.channels), len(ends.classes)
    wider = sketch(lambda: build(channels + 1, classes)).state_dict()
    richer = sketch(lambda: build(channels, classes + 1)).state_dict()
    for name, value in network.state_dict().items():
        axes: dict[int, str] = {}
        for role, count, other in (("channel", channels, wider), ("class", classes, richer)):
            shape = other[name].shape if name in other else value.shape
            pairs = enumerate(zip(value.shape, shape)) if len(shape) == value.ndim else ()
            axes |= {axis: role for axis, pair in pairs if pair == (count, count + 1)}
        yield name, axes


def _move(
    name: str, given: Tensor | None, fresh: Tensor, axes: Mapping[int, str], ends: tuple[Ends, Ends]
) -> tuple[Tensor | None, Moved]:
    """Return the new value of one weight, or None where it stays fresh."""
    if given is None:
        return None, Moved(name, "fresh", "the model has no such weight")
    old, new = ends
    sizes = {"channel": (old.channels, new.channels), "class": (old.classes, new.classes)}
    # Same names in the same order: nothing to match.
    axes = {axis: role for axis, role in axes.items() if sizes[role][0] != sizes[role][1]}
    fits = given.ndim == fresh.ndim and all(
        given.shape[axis] == (len(sizes[axes[axis]][0]) if axis in axes else fresh.shape[axis])
        for axis in range(fresh.ndim)
    )
    if not fits:
        shapes = " and ".join("x".join(map(str, tensor.shape)) or "1" for tensor in (given, fresh))
        return None, Moved(name, "fresh", f"shapes {shapes} differ")
    if not axes:
        return given.to(fresh), Moved(name, "copied", "")
    value, notes = given.to(fresh), []
    for axis, role in axes.items():
        if role == "channel":
            value, note = _match_channels(value, axis, old.channels, new.channels)
            notes.append(note)
    kept = [role for role in axes.values() if role == "class"]
    if kept:
        value, note = _match_classes(value, fresh, [a for a, r in axes.items() if r == "class"], ends)
        notes.append(note)
    return value, Moved(name, "adapted", "; ".join(notes))


def _match_channels(value: Tensor, axis: int, old: Sequence[str], new: Sequence[str]) -> tuple[Tensor, str]:
    known = [name for name in new if name in old]
    if not known and len(old) == len(new):
        return value, "channels of other names, in their order"
    mean = value.mean(axis)
    parts = [value.select(axis, old.index(name)) if name in old else mean for name in new]
    scaled = torch.stack(parts, axis) * (len(old) / len(new))
    named = f"channels {', '.join(known)} by name, " if known else ""
    return scaled, f"{named}{len(new) - len(known)} of {len(new)} channels from the mean of {len(old)}"


def _match_classes(
    value: Tensor, fresh: Tensor, axes: Sequence[int], ends: tuple[Ends, Ends]
) -> tuple[Tensor, str]:
    old, new = (end.classes for end in ends)
    known = [name for name in new if name in old]
    rows, places = (
        torch.tensor([names.index(name) for name in known], dtype=torch.int64) for names in (old, new)
    )
    source = value
    for axis in axes:
        source = source.index_select(axis, rows.to(value.device))
    result = _put(fresh, source, axes, places.to(value.device))
    return result, f"classes {', '.join(known)} by name, {len(new) - len(known)} of {len(new)} fresh"


def _put(whole: Tensor, part: Tensor, axes: Sequence[int], places: Tensor) -> Tensor:
    """Return `whole` with `part` at the given places of each of the axes."""
    axis, *others = axes
    if others:
        part = _put(whole.index_select(axis, places), part, others, places)
    return whole.index_copy(axis, places, part)
