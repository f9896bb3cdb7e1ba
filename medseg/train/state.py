"""All that changes while training, as one value, and its checkpoint.

A checkpoint holds everything that a run needs to go on bit by bit (on a CPU): weights, their moving
average, optimizer, scaler, counters and the history. Randomness is not in it: it derives from
(seed, epoch, sample).
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.core.errors import CheckpointError
from medseg.core.files import write_bytes
from medseg.core.select import select
from medseg.train.optimizers import OPTIMIZERS
from medseg.train.settings import Train

SCHEMA = 1
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
    history: list[dict[str, float]] = field(default_factory=list)
    is_stopped: bool = False

    def update_average(self, decay: float) -> None:
        """Move the average towards the weights (exponential moving average; decay 0 copies)."""
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)


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
    return TrainState(network, optimizer, scaler, average)


def save_checkpoint(path: Path, state: TrainState, fingerprint: str) -> None:
    """Write a checkpoint atomically.

    Args:
        path: fold_K/checkpoint.pt.
        state: What to save.
        fingerprint: Hash of the settings and data that the run depends on.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "schema": SCHEMA,
            "fingerprint": fingerprint,
            "network": state.network.state_dict(),
            "average": state.average,
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "epoch": state.epoch,
            "best_dice": state.best_dice,
            "best_epoch": state.best_epoch,
            "history": state.history,
            "is_stopped": state.is_stopped,
        },
        buffer,
    )
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path, state: TrainState, fingerprint: str) -> None:
    """Fill `state` from a checkpoint, executing no pickled code.

    Raises:
        CheckpointError: Damaged, or of another run: nothing is guessed or partly loaded.
    """
    tree = _read(path)
    if tree.get("schema") != SCHEMA or tree.get("fingerprint") != fingerprint:
        raise CheckpointError(
            "the checkpoint belongs to other settings or other data",
            hint="use another output folder, or undo the change",
            code="CHECKPOINT_FOREIGN",
        )
    state.network.load_state_dict(tree["network"])
    for name, value in tree["average"].items():
        state.average[name].copy_(value)
    state.optimizer.load_state_dict(tree["optimizer"])
    state.scaler.load_state_dict(tree["scaler"])
    for name in ("epoch", "best_dice", "best_epoch", "history", "is_stopped"):
        setattr(state, name, tree[name])


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
