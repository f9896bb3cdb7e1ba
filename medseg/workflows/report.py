"""What a command did, case by case: the JSON that scripts read."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medseg import __version__
from medseg.core.errors import MedsegError
from medseg.core.files import write_json

Status = Literal["done", "skipped", "rejected", "failed"]
SCHEMA = 1


@dataclass
class CaseResult:
    """One case of a report; names and messages hold the case id, never a path."""

    id: str
    status: Status
    code: str | None = None
    message: str | None = None
    hint: str | None = None
    warnings: Sequence[tuple[str, str]] = ()
    outputs: Sequence[str] = ()
    seconds: float = 0.0
    trust: Mapping[str, Any] | None = None  # the sidecar's; None until calibrated

    @classmethod
    def of_error(cls, case_id: str, error: MedsegError, status: Status = "rejected") -> CaseResult:
        """Return the result of a case that raised."""
        return cls(case_id, status, error.code, error.message, error.hint or None)

    def to_json(self) -> dict[str, Any]:
        """Return the contract's shape."""
        return {
            "id": self.id,
            "status": self.status,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "warnings": [{"code": code, "message": message} for code, message in self.warnings],
            "outputs": list(self.outputs),
            "seconds": round(self.seconds, 3),
            **({"trust": {key: self.trust[key] for key in ("look", "reasons")}} if self.trust else {}),
        }


@dataclass
class Report:
    """Collects results while a command runs."""

    command: str
    cases: list[CaseResult] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)  # "metrics", ... as the verb has them
    mlflow: dict[str, str] | None = None
    written: dict[str, Any] | None = None  # the last document written: stdout repeats it, seconds included
    started: float = field(default_factory=time.perf_counter)
    cpu_before: float = field(default_factory=lambda: cpu_seconds())

    def add(self, result: CaseResult) -> None:
        """Note one case."""
        self.cases.append(result)

    @property
    def bad_cases(self) -> list[CaseResult]:
        """Cases that were rejected or failed."""
        return [case for case in self.cases if case.status in {"rejected", "failed"}]

    @property
    def exit_code(self) -> int:
        """0, or 3 where a case is bad."""
        return 3 if self.bad_cases else 0

    def summary(self) -> dict[str, Any]:
        """Return counts and costs; CPU seconds are those of the process tree."""
        counts = {
            status: sum(case.status == status for case in self.cases)
            for status in ("done", "skipped", "rejected", "failed")
        }
        return {
            **counts,
            "seconds": round(time.perf_counter() - self.started, 2),
            "cpu_seconds": round(cpu_seconds() - self.cpu_before, 2),
            "peak_rss_mb": peak_rss_mb(),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the contract's document."""
        return {
            "schema": SCHEMA,
            "command": self.command,
            "version": __version__,
            "exit_code": self.exit_code,
            "cases": [case.to_json() for case in sorted(self.cases, key=lambda case: case.id)],
            "summary": self.summary(),
            "mlflow": self.mlflow,
            **self.extra,
        }

    def write(self, path: Path) -> None:
        """Write the document."""
        self.written = self.to_json()
        write_json(path, self.written)


def cpu_seconds() -> float:
    """Return user + system seconds of this process and of its finished children."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in parts)


def peak_rss_mb() -> float:
    """Return the largest resident set of this process or any finished child, in MB."""
    parts = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(max(parts) / 1024, 1)
