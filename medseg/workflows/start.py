"""What is decided once, before a fold's first step, and noted in its folder: a resumed run repeats it.

RUN/fold_K/start.json    the model it starts from, and what was taken from it
RUN/fold_K/budget.json   epochs that fit a time budget
RUN/fold_K/engine.json   precision, compilation, and in how many parts a batch passes
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from medseg.core.errors import ConfigError
from medseg.core.files import read_json, sha256_of_file, write_json
from medseg.inference.model import SUMS, find_model
from medseg.losses.ranks import alone
from medseg.train.budget import epochs_within
from medseg.train.diagnosis import Finding
from medseg.train.distributed import agree, is_main_process
from medseg.train.loop import Job
from medseg.train.precision import (
    GRADIENT_TOLERANCE,
    TOLERANCE,
    choose_precision,
    compare_precision,
    compile_network,
    count_compared,
    try_compiling,
)
from medseg.train.state import TrainState
from medseg.train.transfer import Moved

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """How steps are computed.

    Args:
        device: Its kind; on another kind, and where it is "", all but the parts is decided anew.
        dtype: Of the forward pass.
        is_compiled: Whether the network is.
        accumulate: Parts in which a batch passes; `--auto-shrink` raises it.
        notes: What did not go as asked.
    """

    device: str
    dtype: str
    is_compiled: bool
    accumulate: int
    notes: tuple[Finding, ...] = ()

    @property
    def torch_dtype(self) -> torch.dtype:
        """What `dtype` names."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @classmethod
    def read(cls, path: Path) -> Engine:
        """Read engine.json."""
        tree = read_json(path)
        return cls(**{**tree, "notes": tuple(Finding(*note) for note in tree["notes"])})


def settle_start(folder: Path, init_from: Path | None) -> None:
    """Note which model a fold starts from; once noted or trained, another start is refused.

    Raises:
        ConfigError: CONFIG_CHANGED.
    """
    path = folder / "start.json"
    sha256 = sha256_of_file(find_model(init_from) / SUMS) if init_from else None
    known = read_json(path)["init_sha256"] if path.exists() else None
    if known != sha256 and (path.exists() or (folder / "checkpoint.pt").exists()):
        raise ConfigError(
            "this fold began from other weights",
            hint="give the same --init-from as before, or use another run folder",
            code="CONFIG_CHANGED",
        )
    if init_from and not path.exists() and is_main_process():
        write_json(path, {"init_sha256": sha256})


def note_transfer(folder: Path, model: str, moved: list[Moved]) -> None:
    """Add to start.json what was taken from a model."""
    if is_main_process():
        tree = read_json(folder / "start.json")
        rows = [entry._asdict() for entry in moved]
        write_json(folder / "start.json", {**tree, "model": model, "transfer": rows})


def settle_epochs(folder: Path, state: TrainState, job: Job, max_minutes: float | None) -> int:
    """Turn a time budget into epochs once, and store the number before it is used."""
    path = folder / "budget.json"
    known: dict[str, int] | None = agree(read_json(path) if path.exists() else None)
    if known:
        return known["epochs"]
    if max_minutes is None or state.epoch > 0:
        return job.settings.epochs
    epochs = agree(epochs_within(max_minutes, state, job))
    if is_main_process():
        write_json(path, {"epochs": epochs})
    return epochs


def settle_engine(folder: Path, network: nn.Module, job: Job) -> Engine:
    """Decide precision and compilation by trying them on a batch, or repeat what was decided."""
    path = folder / "engine.json"
    known = agree(Engine.read(path) if path.exists() else None)
    if known and known.device == job.device.type:
        if known.is_compiled:
            compile_network(network)
        return known
    if known:
        job = replace(job, settings=job.settings.model_copy(update={"accumulate": known.accumulate}))
    engine = agree(_decide(network, job))
    if known:
        shrunk = (note for note in known.notes if note.code == "BATCH_SHRUNK")
        engine = replace(engine, notes=(*shrunk, *engine.notes))
    if is_main_process():
        save_engine(folder, engine)
        for note in engine.notes:
            log.warning("%s %s", note.code, note.message)
    return engine


def save_engine(folder: Path, engine: Engine) -> None:
    """Store how steps are computed."""
    if is_main_process():
        write_json(folder / "engine.json", asdict(engine))


def _decide(network: nn.Module, job: Job) -> Engine:
    """Return the engine that works here. Every rank tries: a loss may need the sums of all of them."""
    settings, device = job.settings, job.device
    dtype = choose_precision(settings.amp, device)
    engine = Engine(device.type, str(dtype).removeprefix("torch."), False, settings.accumulate)
    wants_compiler = settings.compile == "on" or (settings.compile == "auto" and device.type == "cuda")
    if dtype is torch.float32 and not wants_compiler:
        return engine
    batch = next(iter(job.batches(0, 1)))
    # What passes the network at once: more would need memory that training does not.
    image, label = (t.chunk(settings.accumulate)[0].to(device) for t in (batch.image, batch.label))
    if job.dims == 2:
        image, label = image.squeeze(-1), label.squeeze(-1)
    with alone():  # the other ranks wait for what is decided, not in a sum of the loss
        if dtype is not torch.float32:
            engine = _check_precision(engine, network, job, (image, label))
        if wants_compiler:
            engine = _check_compiler(engine, network, job, (image, label))
    return engine


def _check_precision(
    engine: Engine, network: nn.Module, job: Job, batch: tuple[torch.Tensor, torch.Tensor]
) -> Engine:
    image, label = batch
    n = count_compared(network, len(image))
    agreement = compare_precision(
        network, job.loss, image[:n], label[:n], engine.torch_dtype, has_gradient=n < len(image)
    )
    if agreement.is_good:
        return engine
    text = (
        f"{engine.dtype} differs from float32 by {agreement.output:.2g} of the output and by "
        f"{agreement.loss:.2g} of the loss (at most {TOLERANCE:g}), by {agreement.gradient:.2g} of the "
        f"gradient (at most {GRADIENT_TOLERANCE:g}): training goes on in float32"
    )
    return replace(engine, dtype="float32", notes=(*engine.notes, Finding("PRECISION_REFUSED", "", text)))


def _check_compiler(
    engine: Engine, network: nn.Module, job: Job, batch: tuple[torch.Tensor, torch.Tensor]
) -> Engine:
    why = try_compiling(network, job.loss, *batch, engine.torch_dtype)
    if not why:
        return replace(engine, is_compiled=True)
    text = f"torch.compile failed, training goes on without: {why}"
    return replace(engine, notes=(*engine.notes, Finding("COMPILE_REFUSED", "", text)))
