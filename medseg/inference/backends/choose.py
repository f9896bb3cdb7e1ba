"""Choose a backend by its name or by measuring one window on each, and make it for every network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from medseg.core.errors import ConfigError
from medseg.core.select import select, suggest
from medseg.inference.backends import BACKENDS, Backend
from medseg.inference.backends.convert import make_window
from medseg.inference.predict import choose_window_batch

AUTO = "auto"
SETTLED_S = 5.0  # of work left for torch: below, converting costs more than it can bring
COMPILE_WINDOWS = 1000  # on CUDA: below, the minute that compiling takes does not come back
SLOWER = 2.0  # a candidate that takes this many times the best one's time is not measured again

Clock = Callable[[], float]


@dataclass(frozen=True)
class Candidate:
    """One way to run the first network.

    Args:
        backend: Its name.
        window_batch: Windows per call.
        compiles: Whether torch compiles the network.
        seconds: Per window, the better of two after a warm-up; None where it was not measured.
        setup_s: Taken to make it, per network.
        fault: Why it cannot be used, "" where it can.
    """

    backend: str
    window_batch: int = 1
    compiles: bool = False
    seconds: float | None = None
    setup_s: float = 0.0
    fault: str = ""

    @property
    def name(self) -> str:
        """Backend and windows at once, for people."""
        return f"{self.backend}{' compiled' if self.compiles else ''} x{self.window_batch}"


@dataclass(frozen=True)
class Decision:
    """What runs, and why; plain data.

    Args:
        asked: "auto" or a name.
        chosen: What runs.
        candidates: All that were looked at; only `chosen` where a name was given.
    """

    asked: str
    chosen: Candidate
    candidates: tuple[Candidate, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return asdict(self)

    def describe(self) -> str:
        """Return what was chosen, seconds per window of each candidate, and what could not be used."""
        parts = []
        for one in self.candidates:
            time = "not measured" if one.seconds is None else f"{one.seconds:.3g} s"
            parts.append(f"{one.name} {one.fault or time}")
        return f"backend {self.chosen.name}: {'; '.join(parts)}"


def choose_backend(
    asked: str,
    networks: Sequence[nn.Module],
    in_channels: int,
    patch: tuple[int, int, int],
    dims: int,
    *,
    threads: int | None = None,
    n_windows: int | None = None,
    small: tuple[int, int, int] | None = None,
    clock: Clock = time.perf_counter,
) -> tuple[Decision, list[Backend]]:
    """Return the decision, and a backend per network.

    Args:
        asked: "auto" or a name of `BACKENDS`.
        networks: One per fold, in eval mode, on one device.
        in_channels: Of the image.
        patch: Window edge in voxels.
        dims: 2 or 3.
        threads: Of the CPU; None takes all.
        n_windows: That each network will see, where it is known; then making backends counts, too.
        small: A smaller window to look at the network with, see `choose_window_batch`.
        clock: Seconds.

    Raises:
        ConfigError: UNKNOWN_NAME; BACKEND_MISSING and BACKEND_FAILED of a name. `auto` goes on with torch.
    """
    if asked not in (AUTO, *BACKENDS):
        known = (AUTO, *BACKENDS)
        raise ConfigError(f"no backend is called `{asked}`", hint=suggest(asked, known), code="UNKNOWN_NAME")

    def make(network: nn.Module, candidate: Candidate) -> Backend:
        options = {"compiles": True} if candidate.compiles else {}
        builder = select("backend", BACKENDS, candidate.backend, options)
        return builder(network, in_channels, patch, dims, threads=threads)

    batch = choose_window_batch(networks[0], in_channels, patch, dims, small)
    plain = Candidate("torch", batch)
    if asked != AUTO:
        chosen = plain if asked == "torch" else Candidate(asked)
        return Decision(asked, chosen, (chosen,)), [make(network, chosen) for network in networks]
    trial = _Trial(networks[0], make, in_channels, patch, clock)
    work = None if n_windows is None else n_windows * len(networks)
    trial.measure(plain)
    if work is None or _cost(trial.candidates[0], work, len(networks)) > SETTLED_S:
        for candidate in _list_others(next(networks[0].parameters()).device, batch, work):
            trial.measure(candidate)
    chosen = trial.choose(work, len(networks))
    rest = [make(network, chosen) for network in networks[1:]]
    return Decision(asked, chosen, tuple(trial.candidates)), [trial.backends[chosen], *rest]


def _list_others(device: torch.device, batch: int, work: int | None) -> list[Candidate]:
    """Return what to compare torch with; the likely fastest first, since slower ones are measured less."""
    if device.type != "cpu":
        return [Candidate("torch", batch, True)] if work is not None and work >= COMPILE_WINDOWS else []
    converted = [Candidate(name) for name in BACKENDS if name != "torch"]
    return converted + [Candidate("torch", size) for size in (1, 2) if size != batch]


class _Trial:
    """Candidates measured on one network."""

    def __init__(
        self,
        network: nn.Module,
        make: Callable[[nn.Module, Candidate], Backend],
        in_channels: int,
        patch: tuple[int, int, int],
        clock: Clock,
    ) -> None:
        self.network, self.make, self.clock = network, make, clock
        self.in_channels, self.patch = in_channels, patch
        self.candidates: list[Candidate] = []
        self.backends: dict[Candidate, Backend] = {}

    def measure(self, candidate: Candidate) -> None:
        """Make and time a candidate; what cannot be used is noted."""
        settings = asdict(candidate)
        try:
            started = self.clock()
            backend = self.make(self.network, candidate)
            settings["setup_s"] = self.clock() - started
            settings["seconds"] = self._time(backend, candidate.window_batch)
        except ConfigError as error:
            self.candidates.append(Candidate(**{**settings, "fault": f"{error.code}: {error.message}"}))
            return
        self.candidates.append(Candidate(**settings))
        self.backends[self.candidates[-1]] = backend

    def _time(self, backend: Backend, batch: int) -> float:
        device = next(self.network.parameters()).device
        windows = make_window(self.in_channels, self.patch, batch=batch).to(device)
        known = [candidate.seconds for candidate in self.backends if candidate.seconds]

        def once() -> float:
            started = self.clock()
            backend(windows)
            if device.type != "cpu":
                torch.cuda.synchronize(device)
            return (self.clock() - started) / batch

        first = once()
        if known and first > SLOWER * min(known):
            return first
        return min(once(), once())

    def choose(self, work: int | None, n_networks: int) -> Candidate:
        """Return the usable candidate with the least to come; of equals the first."""
        return min(self.backends, key=lambda candidate: _cost(candidate, work, n_networks))


def _cost(candidate: Candidate, work: int | None, n_networks: int) -> float:
    """Return the seconds still to come: of a window where the work is not known, else of all."""
    assert candidate.seconds is not None, "only what was measured can be chosen"
    if work is None:
        return candidate.seconds
    return candidate.seconds * work + candidate.setup_s * (n_networks - 1)
