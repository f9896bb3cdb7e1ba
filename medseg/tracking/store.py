"""Write a run to MLflow; losing the store never stops or slows the work.

The first failed call warns (TRACKING_LOST) and is the last to this run's store: it and every later one go
into a spool on this machine (spool.py), which `medseg tracking sync` sends.
Numbers for a slow store are kept and sent together, so that they cost no more than `SHARE` of the time.
`MlflowClient` is used directly, since MLflow's global functions also record the OS user, the script's path
and the command line.
"""

from __future__ import annotations

import io
import json
import logging
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medseg.tracking import place, process
from medseg.tracking.spool import LOCAL, Recorder, Spool, Wanted, make_id, now_ms

T = TypeVar("T")
log = logging.getLogger(__name__)

KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the page for language models opens
ANONYMOUS = {"mlflow.user": "medseg", "mlflow.source.name": "medseg", "mlflow.source.type": "LOCAL"}
PARENT = "mlflow.parentRunId"
OWN_ID = "medseg.id"  # the tag with the id that we gave a run, by which a later sync finds it
MAX_VALUE = 6000  # characters; mlflow.utils.validation.MAX_PARAM_VAL_LENGTH
MAX_BATCH = 100  # params per call; MAX_PARAMS_TAGS_PER_BATCH
MAX_METRICS = 1000  # per call; MAX_METRICS_PER_BATCH
SHARE, SPARE_S = 0.01, 2.0  # of the time that logging numbers may take: a part, and this much at any time
ABSOLUTE = r"[/~\\]|[A-Za-z]:[/\\]"  # how a path starts that tells about this machine
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
            Metric(_clean(name), float(value), at_ms, step)
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
        self._artifacts = _find_folder(run.info.artifact_uri)
        server = store if place.is_server(store) else f"http://127.0.0.1:{place.DEFAULT_PORT}"
        self.url = place.link_to(server, f"/experiments/{run.info.experiment_id}/runs/{self.run_id}")

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
            _close_to_others(self._artifacts, self._artifacts / folder / path.name)

    def _upload_image(self, png: bytes, key: str, step: int) -> None:
        from matplotlib.image import imread

        # Written by MLflow itself: the names by which its page finds a series are no public format.
        self._client.log_image(self.run_id, imread(io.BytesIO(png)), key=key, step=step, synchronous=True)
        if self._artifacts:
            for path in (self._artifacts / "images").iterdir():
                _close_to_others(self._artifacts, path)

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
        run_id: A run that is to go on; a new one is opened if the store does not know it.
        parent_id: The run below which this one is shown.
        record: JSON file in which `medseg tracking sync` puts the store's id in the place of ours.
    """
    place.prepare_mlflow()
    store = place.find_store()
    wanted = Wanted(
        id=run_id or make_id(),
        experiment=experiment,
        name=name,
        params=flatten(params or {}),
        tags=dict(tags or {}),
        columns=list(columns),
        parent_id=parent_id,
        store=place.hide_login(store),
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


def _open(tracker: Tracker, store: str, wanted: Wanted) -> None:
    from mlflow.tracking import MlflowClient

    if not place.is_server(store):
        place.make_home()
    client = tracker._client = MlflowClient(store)
    run = open_run(client, store, wanted)
    tracker._attach(run, store)
    client.update_run(run.info.run_id, "RUNNING")


def open_run(client: Any, store: str, wanted: Wanted) -> Any:
    """Return the run as the store has it, with its parameters; it is created where it is not there."""
    experiment_id = find_experiment(client, wanted.experiment, store)
    if not wanted.parent_id:
        client.set_experiment_tag(experiment_id, place.VIEW_TAG, _word_view(wanted.columns))
        close_gone(client, [experiment_id])
    run = look_up(client, experiment_id, wanted.id)
    if run is None:
        tags = {**wanted.tags, OWN_ID: wanted.id, **ANONYMOUS}
        if wanted.parent_id:
            parent = look_up(client, experiment_id, wanted.parent_id)
            tags[PARENT] = parent.info.run_id if parent else wanted.parent_id
        run = client.create_run(experiment_id, wanted.started_ms, tags, wanted.name)
    _log_params(client, run, wanted.params)
    return run


def close_gone(client: Any, experiment_ids: Sequence[str]) -> None:
    """Mark runs KILLED that still count as running though their process is gone: nobody else could."""
    for run in client.search_runs(experiment_ids, "attributes.status = 'RUNNING'"):
        if process.is_gone(run.data.tags.get(process.TAG, "")):
            client.set_terminated(run.info.run_id, "KILLED")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as `{"a.b": "text"}`; lists become JSON, absolute paths become "<path>"."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            shown = _hide_paths(value)
            text = shown if isinstance(shown, str) else json.dumps(shown, default=str)
            flat[_clean(name)] = text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"
    return flat


def _hide_paths(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_hide_paths(item) for item in value]
    is_path = isinstance(value, Path) or (isinstance(value, str) and re.match(ABSOLUTE, value))
    return "<path>" if is_path else value


def find_experiment(client: Any, name: str, store: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        folder = None if place.is_server(store) else place.find_artifacts().as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=folder, tags=KIND))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _word_view(columns: Sequence[str]) -> str:
    """Return a stored view as MLflow's "share view" button writes it (3.17; other versions ignore it)."""
    shown = ["attributes.`Duration`", *(f"metrics.`{_clean(column)}`" for column in columns)]
    facets = {"lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": []}
    order = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "searchFilter": "",
    }
    return json.dumps({"selectedColumns": shown, **facets, **order})


def look_up(client: Any, experiment_id: str, run_id: str) -> Any:
    """Return a run by the store's id or by ours; None where it is not there or was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        found = client.search_runs([experiment_id], f"tags.`{OWN_ID}` = '{run_id}'", max_results=1)
        return found[0] if found else None
    return run if run.info.lifecycle_stage == "active" else None


def _log_params(client: Any, run: Any, flat: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    # A value that was logged before cannot be changed; a resumed run keeps its first ones.
    new = [Param(key, value) for key, value in flat.items() if key not in run.data.params]
    for start in range(0, len(new), MAX_BATCH):
        client.log_batch(run.info.run_id, params=new[start : start + MAX_BATCH])


def list_failures() -> tuple[type[Exception], ...]:
    """Return what a dead, slow, full, locked or refusing store raises."""
    from alembic.util.exc import CommandError  # two first runs at once migrate one new database
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, RequestException, SQLAlchemyError, CommandError, OSError


def _find_folder(uri: str) -> Path | None:
    parts = urlsplit(uri)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None


def _close_to_others(root: Path, path: Path) -> None:
    path.chmod(0o600)
    for folder in path.parents:
        folder.chmod(0o700)
        if folder == root.parent:  # the run's own folder
            return


def _clean(name: str) -> str:
    """Keep what MLflow allows in names: letters, digits, `_-. /:`."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else ""
    return "" if value is None else value
