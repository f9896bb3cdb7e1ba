"""tracking sync: send to MLflow what it missed while it was dead.

A spool is removed when all of it arrived; killed anywhere before, the same command again finishes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.core.errors import DataError
from medseg.tracking import address
from medseg.tracking.replay import Record, connect, is_waiting, merge_headers, replay
from medseg.tracking.spool import holding, list_spools, read_spool, remove, sweep
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report

KINDS = ("runs_created", "metrics", "params", "tags", "artifacts", "inputs")


def sync(*, progress: Progress, report: Report, is_moved: bool = False) -> None:
    """Send every spool that no process is at work on; a case of the report is a run.

    Args:
        progress: Shown by run.
        report: Gets a case per spool and the counts of all of them as "sync".
        is_moved: The store has a new address: take also what was meant for another.

    Raises:
        ResourceError: The store does not answer.
    """
    total: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    report.extra["sync"] = total
    sweep()
    spools = list_spools()
    if not spools:
        return
    client = connect()
    with _writing_private(), progress.track("sync", len(spools)) as advance:
        for path in spools:
            result = CaseResult(path.stem, "done")
            started = time.monotonic()
            try:
                with holding(path) as is_ours:
                    if is_ours:
                        _send(client, path, result, total, is_moved)
                    else:
                        result.status, result.message = "skipped", "another process is at work on it"
            except DataError as error:
                result = CaseResult.of_error(path.stem, error)
            result.seconds = time.monotonic() - started
            report.add(result)
            advance(result.id)


def _send(client: Any, path: Path, result: CaseResult, total: Counter[str], is_moved: bool) -> None:
    records, n_cut = read_spool(path)
    if n_cut:
        result.warnings = [("SPOOL_CUT", f"{n_cut} lines were cut short by a kill and are lost")]
    _check_store(records, is_moved)
    if is_waiting(client, records):
        result.status, result.message = "skipped", "the run above it has to be sent first"
        return
    result.id, sent = replay(client, records, path.with_suffix(""))
    total.update(sent)
    remove(path, records)


def _check_store(records: Sequence[Record], is_moved: bool) -> None:
    meant, store = merge_headers(records).store, address.hide_login(address.find_store())
    if meant != store and not is_moved:
        raise DataError(
            f"it was meant for {meant}, and the store now is {store}",
            hint="set MLFLOW_TRACKING_URI as in training; --moved if this is the same store at a new address",
            code="TRACKING_OTHER_STORE",
        )


@contextmanager
def _writing_private() -> Iterator[None]:
    """Artifacts of a store on this machine are written with this process's mask by MLflow."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
