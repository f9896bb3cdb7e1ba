"""Who is at work on a run, as a tag that tells nothing about the machine.

Kill -9 leaves a run RUNNING for ever: nothing in it can say that it ended. The tag is a hash of the
machine's last start, then the id and the start of the process (in clock ticks, /proc/PID/stat): where that
process is gone, the run was killed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

TAG = "medseg.process"
START_FIELD = 19  # of /proc/PID/stat behind the command's name: starttime (proc_pid_stat(5), field 22)


def name_process() -> str:
    """Return the tag of this process; "" where /proc is not there to tell."""
    machine, started = _name_boot(), _find_start(os.getpid())
    return f"{machine}.{os.getpid()}.{started}" if machine and started else ""


def is_gone(tag: str) -> bool:
    """Whether a process of this machine is known to have ended; False where that cannot be told."""
    machine, _, rest = tag.partition(".")
    pid, _, started = rest.partition(".")
    return bool(machine) and machine == _name_boot() and pid.isdigit() and _find_start(int(pid)) != started


def _name_boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return ""
    return hashlib.sha256(boot.strip().encode()).hexdigest()[:12]


def _find_start(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[START_FIELD]
