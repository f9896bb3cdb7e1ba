"""All that changes while training, as one value, and its checkpoint.

A checkpoint holds everything that a run needs to go on bit by bit (on a CPU): weights, their moving
average, optimizer, scaler, counters and the history. Randomness is not in it: it derives from
(seed, epoch, sample). It also holds what it was made from, so that a change can be named.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.core.errors import CheckpointError
from medseg.core.files import write_bytes
from medseg.core.select import select
from medseg.train.diagnosis import Finding, new_census
from medseg.train.encoder import slow_encoder
from medseg.train.optimizers import OPTIMIZERS
from medseg.train.settings import Train

SCHEMA = 2
# What a damaged archive raises, from its table of contents to the pickle in it.
UNREADABLE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    struct.error,
)
PLAIN = ("epoch", "best_dice", "best_epoch", "best", "history", "is_stopped", "census", "case_scores")
Origin = Mapping[str, Any]


@dataclass
class TrainState:
    """A training in progress."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: dict[str, Tensor]  # moving average of the weights
    epoch: int = 0  # epochs done
    best_dice: float = -1.0
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # the average of that epoch
    history: list[dict[str, float]] = field(default_factory=list)
    is_stopped: bool = False
    census: Tensor = field(default_factory=lambda: new_census(torch.device("cpu")))  # of all patches so far
    findings: list[Finding] = field(default_factory=list)
    case_scores: dict[str, float] = field(default_factory=dict)  # 1 - loss, blended: what hard cases are

    @property
    def final(self) -> dict[str, Tensor]:
        """The weights that leave training: the best where it stopped early, else the last average."""
        return self.best if self.is_stopped else self.average

    def update_average(self, decay: float) -> None:
        """Move the average towards the weights (exponential moving average; decay 0 copies)."""
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    def note_findings(self, found: Iterable[Finding]) -> None:
        """Keep each fault the first time it is seen."""
        known = {(finding.code, finding.subject) for finding in self.findings}
        self.findings += [finding for finding in found if (finding.code, finding.subject) not in known]


def start_state(
    network: nn.Module,
    settings: Train,
    device: torch.device,
    *,
    uses_scaler: bool,
    ends: tuple[int, int] = (0, 0),
) -> TrainState:
    """Return the state before the first step.

    Args:
        network: On its device.
        settings: The recipe.
        device: Where it trains.
        uses_scaler: Whether gradients are scaled, for fp16.
        ends: (image channels, classes); (0, 0) where no optimizer asks for its first and last layers.
    """
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    scaler = torch.amp.GradScaler(device.type, enabled=uses_scaler)
    build = select("optimizer", OPTIMIZERS, settings.optimizer, settings.optimizer_options)
    optimizer = build(network, ends, settings.learning_rate, settings.weight_decay)
    slow_encoder(optimizer, network, settings.encoder_rate)
    return TrainState(network, optimizer, scaler, average)


def save_checkpoint(path: Path, state: TrainState, origin: Origin) -> None:
    """Write a checkpoint atomically.

    Args:
        path: fold_K/checkpoint.pt.
        state: What to save.
        origin: The settings and data that the run depends on: name -> JSON-able value.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "schema": SCHEMA,
            "origin": json.dumps(origin),
            "network": state.network.state_dict(),
            "average": state.average,
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "findings": [list(finding) for finding in state.findings],
            **{name: getattr(state, name) for name in PLAIN},
        },
        buffer,
    )
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path, state: TrainState, origin: Origin) -> None:
    """Fill `state` from a checkpoint, executing no pickled code.

    Raises:
        CheckpointError: Damaged, or of another run, with the differences: nothing is partly loaded.
    """
    tree = _read(path)
    if tree.get("schema") != SCHEMA:
        raise CheckpointError(
            f"checkpoint schema {tree.get('schema')} is not {SCHEMA}",
            hint="use the version that wrote it, or delete it to start this fold again",
            code="CHECKPOINT_FOREIGN",
        )
    if changed := _differences(json.loads(tree["origin"]), json.loads(json.dumps(origin))):
        raise CheckpointError(
            f"the checkpoint belongs to other settings or other data: {'; '.join(changed[:8])}"
            + (f"; and {len(changed) - 8} more" if len(changed) > 8 else ""),
            hint="use another output folder, or undo the change",
            code="CHECKPOINT_FOREIGN",
        )
    state.network.load_state_dict(tree["network"])
    for name, value in tree["average"].items():
        state.average[name].copy_(value)
    state.optimizer.load_state_dict(tree["optimizer"])
    state.scaler.load_state_dict(tree["scaler"])
    state.findings = [Finding(*finding) for finding in tree["findings"]]
    for name in PLAIN:
        setattr(state, name, tree[name])


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `name: old -> new` for every entry that differs; long values are not shown."""
    names = [name for name in {**old, **new} if (name in old, old.get(name)) != (name in new, new.get(name))]
    return [f"{name}: {_word(old, name)} -> {_word(new, name)}" for name in names]


def _word(tree: Mapping[str, Any], name: str) -> str:
    text = json.dumps(tree[name]) if name in tree else "unset"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _read(path: Path) -> dict[str, Any]:
    try:
        # torch checks no CRC of what it unpickles: damaged bytes could be read as other numbers.
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(
            "the checkpoint cannot be read",
            hint="delete it to start this fold again",
            code="CHECKPOINT_DAMAGED",
        ) from error
    return tree if isinstance(tree, dict) else {}
