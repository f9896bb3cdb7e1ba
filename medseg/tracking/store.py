"""Write a run to MLflow; losing the store never stops or slows the work.

The first failed call warns (TRACKING_LOST) and is the last to this run's store: it and every later one go
into a spool on this machine (spool.py), which `medseg tracking sync` sends.
Numbers for a slow store are kept and sent together, so that they cost no more than `SHARE` of the time.
"""

from __future__ import annotations

import io
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medseg.tracking import address, place, process
from medseg.tracking.runs import OPENED, clean, close_to_others, find_folder, flatten, list_failures, open_run
from medseg.tracking.spool import LOCAL, Recorder, Spool, Wanted, is_run_id, make_id, now_ms

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_METRICS = 1000  # per call; MAX_METRICS_PER_BATCH
SHARE, SPARE_S = 0.01, 2.0  # of the time that logging numbers may take: a part, and this much at any time
TABLES = "mlflow.loggedArtifacts"  # the tag by which the interface knows which JSON files are tables


class Tracker:
    """One open MLflow run, or nothing with the same face.

    Make one with `start_run`, or with `Tracker.off()` where tracking is not wanted.
    """

    def __init__(self) -> None:
        self.run_id = ""
        self.url = ""
        self._client: Any = None  # of MLflow, then the spool, then None
        self._spool: Recorder | None = None  # until it is needed
        self._tables: list[str] = []
        self._artifacts: Path | None = None
        self._waiting: list[Any] = []  # numbers that were not sent yet
        self._opened_s, self._spent_s = time.monotonic(), 0.0

    @classmethod
    def off(cls) -> Tracker:
        """Return a tracker that does nothing."""
        return cls()

    @property
    def is_on(self) -> bool:
        """Whether calls still reach a store, or the spool."""
        return self._client is not None

    @property
    def link(self) -> dict[str, str] | None:
        """Id and address of the run, as reports hold them; None where no store has it."""
        return {"run_id": self.run_id, "url": self.url} if self.url else None

    @property
    def is_spooling(self) -> bool:
        """Whether the store is lost and calls reach the spool."""
        return isinstance(self._client, Recorder)

    def log_metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """Log numbers; `/` in a name groups charts, and undefined values (None, NaN) are left out."""
        if not self.is_on:
            return
        from mlflow.entities import Metric

        at_ms = now_ms()
        self._waiting += [
            Metric(clean(name), float(value), at_ms, step)
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        ]
        now_s = time.monotonic()
        if self.is_spooling or self._spent_s <= SPARE_S + SHARE * (now_s - self._opened_s):
            self._send()
            self._spent_s += time.monotonic() - now_s

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file, under its own name, into a folder of the run."""
        self._try(lambda: self._upload(path, folder))

    def log_content(self, content: bytes | str, name: str) -> None:
        """Store a PNG, a text or any other content as artifact `name`, e.g. "overlays/worst.png"."""
        self._try(lambda: self._upload_content(content, name))

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Store rows as `name` (ending in .json), which the interface shows as a table.

        Same file and tag as `MlflowClient.log_table`, which would append the rows once more when a run is
        resumed. Floats keep four significant digits; None and NaN become empty cells.
        """
        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[_round(row.get(column)) for column in columns] for row in rows]
        self.log_content(json.dumps({"columns": columns, "data": data}), name)
        if name not in self._tables:
            self._tables.append(name)
            known = json.dumps([{"path": table, "type": "table"} for table in self._tables])
            self._try(lambda: self._client.set_tag(self.run_id, TABLES, known))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set plain facts about the run."""
        for name, value in tags.items():
            self._try(lambda name=name, value=value: self._client.set_tag(self.run_id, name, value))  # type: ignore[misc]

    def log_image(self, png: bytes, key: str, step: int) -> None:
        """Store a picture of a series: the interface shows all of one key behind a slider over steps."""
        self._try(lambda: self._upload_image(png, key, step))

    def log_dataset(self, name: str, digest: str, profile: Mapping[str, Any], context: str) -> None:
        """Name the data of the run: what it is called, a hash of it, and plain counts; no places.

        Args:
            name: Of the data, or of a part of it.
            digest: Cut to the 36 characters that MLflow takes.
            profile: Counts.
            context: What it was used for, e.g. "training".
        """
        if self.is_on:
            self._try(lambda: self._log_input(name, digest, profile, context))

    def _send(self) -> None:
        """Send the numbers that wait."""
        metrics, self._waiting = self._waiting, []
        for start in range(0, len(metrics), MAX_METRICS):
            chunk = metrics[start : start + MAX_METRICS]
            self._try(lambda chunk=chunk: self._client.log_batch(self.run_id, metrics=chunk))  # type: ignore[misc]

    def end(self, status: str = "FINISHED") -> None:
        """Close the run as FINISHED, FAILED or KILLED; the tracker is off afterwards."""
        self._send()
        self._try(lambda: self._client.set_terminated(self.run_id, status))
        self._client = None

    def _attach(self, run: Any, store: str) -> None:
        self.run_id = run.info.run_id
        if self._spool:
            self._spool.move_to(self.run_id)
        self._tables = [table["path"] for table in json.loads(run.data.tags.get(TABLES, "[]"))]
        self._artifacts = find_folder(run.info.artifact_uri)
        server = address.name_server(store)
        self.url = address.link_to(server, f"/experiments/{run.info.experiment_id}/runs/{self.run_id}")

    def _try(self, call: Callable[[], T]) -> T | None:
        if self._client is None:
            return None
        try:
            return call()
        except list_failures() as error:
            self._lose(error)
            return self._try(call)  # into the spool

    def _lose(self, error: Exception) -> None:
        # The text of these errors may hold credentials of the server, so the warning names the type only.
        self._client, self._spool, self._artifacts = self._spool, None, None
        later = "; `medseg tracking sync` sends the rest later" if self._client else ""
        cause = type(error.__context__ or error).__name__
        log.warning(
            "TRACKING_LOST the work goes on without MLflow%s (%s %s)",
            later,
            getattr(error, "error_code", ""),
            cause,
        )
        log.debug("tracking was lost", exc_info=error)

    def _upload(self, path: Path, folder: str) -> None:
        self._client.log_artifact(self.run_id, str(path), folder or None)
        if self._artifacts:
            close_to_others(self._artifacts, self._artifacts / folder / path.name)

    def _upload_image(self, png: bytes, key: str, step: int) -> None:
        from matplotlib.image import imread

        # Written by MLflow itself: the names by which its page finds a series are no public format.
        self._client.log_image(self.run_id, imread(io.BytesIO(png)), key=key, step=step, synchronous=True)
        if self._artifacts:
            for path in (self._artifacts / "images").iterdir():
                close_to_others(self._artifacts, path)

    def _log_input(self, name: str, digest: str, profile: Mapping[str, Any], context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = Dataset(name, digest[:36], "local", "{}", profile=json.dumps(profile))
        tags = [InputTag("mlflow.data.context", context)]
        self._client.log_inputs(self.run_id, [DatasetInput(data, tags)])

    def _upload_content(self, content: bytes | str, name: str) -> None:
        folder, _, file_name = name.rpartition("/")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / file_name
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            self._upload(path, folder)


def start_run(
    experiment: str,
    name: str,
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    columns: Sequence[str] = ("whole_cases/dice", "val/dice", "train/loss"),
    run_id: str | None = None,
    parent_id: str = "",
    record: Path | None = None,
) -> Tracker:
    """Open a run, or reopen `run_id`; where the store cannot be reached, its calls go into the spool.

    The id is then one of ours, which serves as well for `run_id` and `parent_id` of later calls.

    Args:
        experiment: One per pipeline; created when absent, restored when deleted.
        name: Shown in the list of runs.
        params: The resolved configuration; nested keys are joined by dots, long values cut, paths hidden.
        tags: Plain facts such as version or device; no paths, no patients.
        columns: The metrics that the list of runs shows.
        run_id: A run that is to go on; a new one is opened if the store does not know it, or this is no id.
        parent_id: The run below which this one is shown.
        record: JSON file in which `medseg tracking sync` puts the store's id in the place of ours.
    """
    place.prepare_mlflow()
    store = address.find_store()
    wanted = Wanted(
        id=run_id if run_id and is_run_id(run_id) else make_id(),
        experiment=experiment,
        name=name,
        params=flatten(params or {}),
        tags=dict(tags or {}),
        columns=list(columns),
        parent_id=parent_id,
        store=address.hide_login(store),
        started_ms=now_ms(),
        record=str(record.absolute()) if record else "",
    )
    tracker = Tracker()
    tracker.run_id, tracker._spool = wanted.id, Recorder(Spool(wanted))
    try:
        if parent_id.startswith(LOCAL):  # what is below a run in the spool goes there, too
            tracker._client, tracker._spool = tracker._spool, None
        else:
            _open(tracker, store, wanted)
    except list_failures() as error:
        tracker._lose(error)
    tracker._try(lambda: tracker._client.set_tag(tracker.run_id, process.TAG, process.name_process()))
    return tracker


def find_run(**tags: str) -> tuple[str, str]:
    """Return id and experiment of the newest run with these `medseg.` tags; "" where there is none."""
    place.prepare_mlflow()
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(address.find_store())
        names = {one.experiment_id: one.name for one in client.search_experiments()}
        where = " and ".join(f"tags.`medseg.{tag}` = '{value}'" for tag, value in tags.items())
        runs = client.search_runs(list(names), where, max_results=1)
    except list_failures():
        return "", ""
    return (str(runs[0].info.run_id), str(names[runs[0].info.experiment_id])) if runs else ("", "")


def _open(tracker: Tracker, store: str, wanted: Wanted) -> None:
    from mlflow.tracking import MlflowClient

    if not address.is_server(store):
        place.make_home()
    client = tracker._client = MlflowClient(store)
    run = open_run(client, store, wanted)
    tracker._attach(run, store)
    client.update_run(run.info.run_id, "RUNNING")
    client.set_tag(run.info.run_id, OPENED, str(wanted.started_ms))


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else ""
    return "" if value is None else value
