"""What every verb needs: logs and progress on stderr, errors as two lines, JSON on stdout, exit codes."""

from __future__ import annotations

import errno
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from medseg.core.errors import ConfigError, MedsegError, ResourceError, is_out_of_memory

if TYPE_CHECKING:
    from medseg.workflows.progress import Advance, Progress
    from medseg.workflows.report import Report

STARTED: list[str] = []
"""Verbs whose arguments were understood: they print their own JSON document."""

MAX_TOLD = 20  # bad cases of one code on stderr
NO_SPACE, READ_ONLY = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}, errno.EROFS


def print_error(subject: str, code: str, message: str, hint: str) -> None:
    """Print the two lines of a bad case or of a failed command on stderr."""
    print(f"{code} {subject}: {message}" if subject else f"{code}: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)


@contextmanager
def session(
    verb: str,
    *,
    subject: str = "",
    as_json: bool = False,
    quiet: bool = False,
    verbose: int = 0,
    is_tracked: bool = False,
) -> Iterator[Report]:
    """Yield the verb's report; on the way out print it and exit with the contract's code.

    Where it `is_tracked`, an address of MLflow that cannot be one is refused first.
    """
    from medseg.workflows.report import Report

    STARTED.append(verb)
    level = logging.ERROR if quiet else logging.DEBUG if verbose > 1 else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(message)s")
    report = Report(verb)
    failure: MedsegError | None = None
    try:
        if is_tracked:
            from medseg.tracking.address import find_store

            find_store()
        yield report
    except MedsegError as error:
        failure = error
    except (OSError, MemoryError, RuntimeError) as error:
        failure = _explain(error)
        if failure is None:
            raise
    code = failure.exit_code if failure else report.exit_code
    if failure:
        report.written = {**(report.written or report.to_json()), "error": _to_json(failure)}
    _finish(report, as_json=as_json, quiet=quiet, code=code)
    if failure:
        print_error(subject, failure.code, failure.message, failure.hint)
    raise typer.Exit(code)


def print_usage_error() -> None:
    """Print the JSON document of a command whose arguments were not understood."""
    from medseg.workflows.report import Report

    error = ConfigError("the arguments were not understood", hint="see --help", code="USAGE")
    tree = Report(sys.argv[1]).to_json()
    print(json.dumps({**tree, "exit_code": 2, "error": _to_json(error)}, indent=2, sort_keys=True))


def _to_json(error: MedsegError) -> dict[str, str | None]:
    return {"code": error.code, "message": error.message, "hint": error.hint or None}


def _explain(error: Exception) -> MedsegError | None:
    """Return what is wrong with the output folder or the machine, or None for what is a bug."""
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return ConfigError(
            "a file stands where a folder is needed",
            hint="check the path, or choose another output folder with -o",
            code="OUT_IS_FILE",
        )
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == READ_ONLY):
        return ResourceError(
            "a file or folder may not be read or written by this user",
            hint="check the permissions of the data and of the folder after -o",
            code="NO_PERMISSION",
        )
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return ResourceError(
            "the disk is full", hint="free space and run the same command again", code="DISK_FULL"
        )
    if is_out_of_memory(error):
        return ResourceError(
            "out of memory",
            hint="a larger machine, or --memory-gb where there is one",
            code="OUT_OF_MEMORY",
        )
    return None


def _finish(report: Report, *, as_json: bool, quiet: bool, code: int) -> None:
    told = Counter[str]()
    for case in report.bad_cases:
        told[case.code or ""] += 1
        if told[case.code or ""] <= MAX_TOLD:
            print_error(case.id, case.code or "FAILED", case.message or "", case.hint or "")
    for why, count in told.items():
        if count > MAX_TOLD:
            print(f"{why}: and {count - MAX_TOLD} more; --json lists all", file=sys.stderr)
    if not quiet:
        for case in report.cases:
            for warning, message in case.warnings:
                print(f"warning {warning} {case.id}: {message}", file=sys.stderr)
    if as_json:
        print(
            json.dumps({**(report.written or report.to_json()), "exit_code": code}, indent=2, sort_keys=True)
        )


def summarise(report: Report) -> str:
    """Return the closing line: counts, wall and CPU seconds, memory."""
    summary = report.summary()
    counts = ", ".join(
        f"{summary[name]} {name}" for name in ("done", "skipped", "rejected", "failed") if summary[name]
    )
    return (
        f"{report.command}: {counts or 'nothing to do'}; wall {summary['seconds']:.1f} s, "
        f"CPU {summary['cpu_seconds']:.1f} s, peak {summary['peak_rss_mb']:.0f} MB"
    )


def say_mlflow(report: Report, progress: Progress) -> None:
    """Say where MLflow shows what was done."""
    if report.mlflow:
        progress.say(f"MLflow: {report.mlflow['url']}  (start it with: medseg ui)")


def make_progress(*, quiet: bool) -> Progress:
    """Return a progress bar on a terminal, plain lines elsewhere, nothing when quiet."""
    from medseg.workflows.progress import Progress

    if quiet:
        return Progress()

    class Terminal(Progress):
        @contextmanager
        def track(self, what: str, total: int, works: Sequence[float] = ()) -> Iterator[Advance]:
            draw = _draw_bar if sys.stderr.isatty() else _print_lines
            yield from draw(what, works or [1.0] * total)

        def say(self, text: str) -> None:
            print(text, file=sys.stderr)

    return Terminal()


def _draw_bar(what: str, works: Sequence[float]) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from medseg.workflows.progress import estimate_left, word_left

    texts = (TextColumn("{task.fields[left]:<12}"), TextColumn("{task.fields[note]}"))
    columns: tuple[Any, ...] = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        *texts,
    )
    counted: list[bool] = []
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=len(works), note="", left="")

        def advance(note: str, is_free: bool = False) -> None:
            counted.append(not is_free)
            left = word_left(estimate_left(works, counted, time.monotonic() - started))
            bar.update(task, advance=1, note=note, left=left)

        yield advance


def _print_lines(what: str, works: Sequence[float]) -> Iterator[Advance]:
    """Print at most a line every two seconds, and the last."""
    from medseg.workflows.progress import estimate_left, word_left

    counted: list[bool] = []
    started, shown = time.monotonic(), 0.0

    def advance(note: str, is_free: bool = False) -> None:
        nonlocal shown
        counted.append(not is_free)
        now = time.monotonic()
        if len(counted) == len(works) or now - shown > 2:
            left = word_left(estimate_left(works, counted, now - started))
            print(
                f"{what} {len(counted)}/{len(works)} {note}{left and f', {left}'}",
                file=sys.stderr,
                flush=True,
            )
            shown = now

    yield advance
