"""Measure what a training takes, in a process that cannot hurt the machine, and climb as far as it fits.

A trial runs in a fresh process: what it imports counts, as it will while training, and what it leaves behind
is gone. The parent looks on and ends it above the cap, so that a plan that is far too large costs a moment
and not the machine. Linux only: /proc tells the peak.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from medseg.core.errors import MedsegError, ResourceError, is_out_of_memory

WATCH_S = 0.02  # fresh memory is touched at 1 to 2 GB/s, so a trial ends 40 MB above its cap
CONTEXT_MB = 512  # CUDA's own, beside what torch allocates
MAX_PROBES = 6
SECOND = 8.0  # times the work of the first probe: what imports take is then small beside the difference
BACK_OFF = 0.8  # work after a trial that had to be ended
WORTHWHILE = 1.3  # more work than what fits already, for one more probe


@dataclass(frozen=True)
class Cost:
    """What a trial took.

    Args:
        peak_mb: Largest resident set of the process, imports included; on CUDA the device's memory.
        step_s: Seconds a training step, with its batch.
    """

    peak_mb: float
    step_s: float


Trial = Callable[[], Cost]


def measure(trial: Trial, cap_mb: float | None) -> Cost | None:
    """Run a trial in a fresh process; None: it ran out of memory or was ended above the cap.

    Args:
        trial: Picklable.
        cap_mb: Resident set at which it is ended; None where the device's own limit counts.

    Raises:
        ResourceError: MEMORY_PROBE where memory cannot be read or the trial dies of something else.
        MedsegError: What the trial raised.
    """
    if not Path("/proc/self/status").exists():
        raise _cannot_probe("memory can be measured on Linux only")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, trial))
    process.start()
    sender.close()
    try:
        return _watch(process, receiver, cap_mb)
    finally:
        process.kill()
        process.join()
        receiver.close()


def _watch(process: BaseProcess, receiver: Connection, cap_mb: float | None) -> Cost | None:
    while not receiver.poll(WATCH_S):
        if cap_mb is not None and read_peak_mb(process.pid) > cap_mb:
            return None
    try:
        result: Cost | MedsegError | None = receiver.recv()
    except EOFError:
        process.join()
        if (
            process.exitcode or 0
        ) < 0:  # by a signal: the kernel's for lack of memory, or abort of a failed new
            return None
        raise _cannot_probe("the trial training ended with an error; see above") from None
    if isinstance(result, MedsegError):
        raise result
    return result


def _cannot_probe(why: str) -> ResourceError:
    hint = "leave out --memory-gb and set grid.patch and grid.batch_size"
    return ResourceError(why, hint=hint, code="MEMORY_PROBE")


def _work(sender: Connection, trial: Trial) -> None:
    """Run in the fresh process; a bug keeps its traceback and sends nothing."""
    try:
        sender.send(trial())
    except MedsegError as error:
        sender.send(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sender.send(None)


def read_peak_mb(pid: int | str | None = "self") -> float:
    """Return the largest resident set of a process so far (VmHWM), 0 where it is gone.

    Not `ru_maxrss`: a process inherits that from the one that started it.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) / 1024 if found else 0.0


def limit_device(device: torch.device, cap_mb: float) -> None:
    """Let torch allocate no more than the cap on a GPU; on a CPU the parent watches."""
    if device.type == "cuda":
        total_mb = torch.cuda.get_device_properties(device).total_memory / 2**20
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(cap_mb - CONTEXT_MB, 1) / total_mb), device)


def peak_mb(device: torch.device) -> float:
    """Return the peak of this process, on a GPU that of the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**20 + CONTEXT_MB
    return read_peak_mb()


def climb(works: Sequence[float], measure_mb: Callable[[int], float | None], target_mb: float) -> int | None:
    """Return the largest rung that was measured to stay within the target, or None: not even the smallest.

    Memory is nearly a line over the work. Two small rungs give the line, the line the rung to verify, and
    each further measurement corrects it. A rung that had to be ended gives no number: a fifth less comes
    next, or halfway to the smallest where there is no line yet.

    Args:
        works: Work of each rung, rising.
        measure_mb: Peak of a rung, or None where it was ended.
        target_mb: What the peak may reach.
    """
    peaks: dict[int, float] = {}
    fits, too_large, rung = -1, len(works), 0
    for _ in range(MAX_PROBES):
        peak = measure_mb(rung)
        if peak is not None:
            peaks[rung] = peak
        if peak is None or peak > target_mb:
            too_large = rung
        else:
            fits = rung
        limit = _predict(works, peaks, target_mb)
        if peak is None:  # the line was wrong, or there is none yet
            back = BACK_OFF * works[rung] if len(peaks) > 1 else math.sqrt(works[0] * works[rung])
            limit = min(limit, back)
        inside = [index for index in range(fits + 1, too_large) if works[index] <= limit]
        if fits < 0 or not inside:
            break
        rung = inside[-1]
        if len(peaks) > 1 and works[rung] < WORTHWHILE * works[fits]:
            break
    return fits if fits >= 0 else None


def _predict(works: Sequence[float], peaks: dict[int, float], target_mb: float) -> float:
    """Return the work that the line through the two largest measured rungs allows."""
    *_, last = sorted(peaks) or [0]
    if len(peaks) < 2:
        return SECOND * works[last]
    before = sorted(peaks)[-2]
    slope = (peaks[last] - peaks[before]) / (works[last] - works[before])
    if slope <= 0:
        return SECOND * works[last]
    return works[last] + (target_mb - peaks[last]) / slope
