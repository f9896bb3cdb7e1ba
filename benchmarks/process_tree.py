"""CPU seconds of a command and all its processes, kept in a file while it runs and over repeated starts.

The file is rewritten every second: whatever is killed, and however, at most about a second is lost. A
command that outlived its meter is stopped, and its seconds are counted, by the next start. Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Tree = dict[str, Any]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
EMPTY: Tree = {"cpu_s": 0.0, "wall_s": 0.0, "sessions": 0, "marks": {}, "running": None}
LAST_WORDS_S = 10.0  # between SIGTERM and SIGKILL
WRITE_EVERY_S = 1.0


class Stopped(RuntimeError):  # noqa: N818  (reads as what happened)
    """The command was stopped before its end; started again, it goes on."""


class Meter:
    """Runs a command and keeps in `path` what it costs: {"cpu_s", "wall_s", "sessions", "marks"}.

    A mark is the CPU seconds at which something was first seen, such as the end of an epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: Tree = json.loads(path.read_text()) if path.exists() else json.loads(json.dumps(EMPTY))

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far, of all starts."""
        return float(self.state["cpu_s"])

    def mark(self, name: str) -> None:
        """Note the CPU seconds at which `name` was first seen."""
        self.state["marks"].setdefault(name, round(self.cpu_s, 2))

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        watch: Callable[[], bool] = lambda: True,
        poll_s: float = 0.25,
    ) -> int:
        """Run a command to its end and return its exit status.

        Args:
            command: Gets a session of its own, by which its processes are found.
            environment: Of the command.
            log: Both its outputs are appended here.
            watch: Called after each look at the clocks; may set marks; False stops the command.
            poll_s: Between two looks.

        Raises:
            Stopped: `watch` said so.
        """
        self.reap()
        base_cpu, base_wall, started = self.cpu_s, float(self.state["wall_s"]), time.monotonic()
        with log.open("ab") as stream:
            process = subprocess.Popen(
                command, env=dict(environment), stdout=stream, stderr=stream, start_new_session=True
            )
        try:
            self.state["sessions"] += 1
            self.state["running"] = {"session": process.pid, "since": start_of(process.pid), "base": base_cpu}
            written = 0.0
            while True:
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
                now = time.monotonic()
                seen = usage.ru_utime + usage.ru_stime if ended else session_cpu_s(process.pid)
                self.state["cpu_s"] = max(self.cpu_s, base_cpu + seen)
                self.state["wall_s"] = base_wall + now - started
                goes_on = watch()
                if ended:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    return process.returncode
                if not goes_on:
                    raise Stopped
                if now - written > WRITE_EVERY_S:
                    written = now
                    self.write()
                time.sleep(poll_s)
        finally:
            if process.returncode is None:
                self.stop()
                process.wait()
            self.state["running"] = None
            self.write()

    def reap(self) -> None:
        """Stop a command that outlived its meter and count what it used meanwhile."""
        running = self.state["running"]
        if running and start_of(running["session"]) == running["since"]:
            self.stop()
        self.state["running"] = None

    def stop(self) -> None:
        """End the running session: SIGTERM, then SIGKILL; its last CPU seconds are counted."""
        session, base = self.state["running"]["session"], self.state["running"]["base"]
        deadline = time.monotonic() + LAST_WORDS_S
        for way in (signal.SIGTERM, signal.SIGKILL):
            self.state["cpu_s"] = max(self.cpu_s, base + session_cpu_s(session))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, way)
            while way is signal.SIGTERM and is_running(session) and time.monotonic() < deadline:
                time.sleep(0.05)

    def write(self) -> None:
        """Keep the state, whole."""
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self.state, indent=2) + "\n")
        temporary.replace(self.path)


def session_cpu_s(session: int) -> float:
    """Return user and system seconds of all processes of a session and of the children they waited for."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = read_stat(path)
        if fields and int(fields[3]) == session:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS_PER_S


def read_stat(path: Path) -> list[str]:
    """Return the fields of /proc/PID/stat from the third (state) on: the name may hold blanks."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def start_of(pid: int) -> int | None:
    """Return when a process was started, in ticks after boot: a reused pid differs in it."""
    fields = read_stat(Path(f"/proc/{pid}/stat"))
    return int(fields[19]) if fields else None


def is_running(session: int) -> bool:
    """Whether a session has a process that is not a zombie."""
    stats = (read_stat(path) for path in Path("/proc").glob("[0-9]*/stat"))
    return any(fields and int(fields[3]) == session and fields[0] != "Z" for fields in stats)
