"""Which case each loader process is at, so that the death of one can be told in words."""

from __future__ import annotations

import os
import re

import torch
from torch.utils.data import get_worker_info

# What torch says in the main process when a loader process has died.
DEATH = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) "
    r"(?:is killed by signal: (?P<signal>[^.]+)|exited unexpectedly(?: with exit code (?P<code>\d+))?)"
)


class Worklog:
    """A row per worker in shared memory: its process id and the number of its case."""

    def __init__(self, workers: int) -> None:
        self._rows = torch.full((max(1, workers), 2), -1, dtype=torch.int64)
        self._rows.share_memory_()  # type: ignore[no-untyped-call]

    def note(self, case: int) -> None:
        """Say which case this process begins; outside a worker, do nothing."""
        if info := get_worker_info():
            self._rows[info.id] = torch.tensor([os.getpid(), case])

    def find(self, pid: int) -> int | None:
        """Return the number of the case that a process began last."""
        return next((case for known, case in self._rows.tolist() if known == pid), None)


def explain_death(error: BaseException) -> tuple[list[int], str] | None:
    """Return the dead loader processes and what ended them, or None where the error says something else."""
    found: tuple[list[int], str] | None = None
    cause: BaseException | None = error
    while cause is not None:  # the first error names the process, the one behind it the signal
        if match := DEATH.search(str(cause)):
            pids = [int(pid) for pid in match["pids"].split(",")]
            ended = f"signal {match['signal']}" if match["signal"] else f"exit code {match['code'] or '?'}"
            if found is None or match["signal"]:
                found = pids, ended
        cause = cause.__cause__ or cause.__context__
    return found
