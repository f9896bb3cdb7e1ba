"""Send a spool to the store, as often as need be: whatever arrived before is not there twice.

Points of metrics that the run has are left out; parameters, tags, artifacts and inputs replace themselves.
Tags and artifacts that a later session has in the store already are newer, and stay.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medseg.core.errors import DataError, ResourceError
from medseg.core.files import write_text
from medseg.tracking import address, place
from medseg.tracking.runs import OPENED, find_experiment, list_failures, look_up, open_run
from medseg.tracking.spool import LOCAL, Wanted, find_folder
from medseg.tracking.store import MAX_METRICS, TABLES

Record = Mapping[str, Any]


def connect() -> Any:
    """Return a client of the store, which has answered.

    Raises:
        ResourceError: It does not answer.
    """
    place.prepare_mlflow()
    from mlflow.tracking import MlflowClient

    store = address.find_store()
    try:
        if not address.is_server(store):
            place.make_home()
        client = MlflowClient(store)
        client.search_experiments(max_results=1)
    except list_failures() as error:
        raise ResourceError(
            f"the tracking store does not answer ({_name(error)})",
            hint="start it, or correct MLFLOW_TRACKING_URI and its login, then sync again: nothing is lost",
            code="TRACKING_UNREACHABLE",
        ) from error
    return client


@contextmanager
def _reaching() -> Iterator[None]:
    """Tell a store that died from one that does not take what it is sent."""
    try:
        yield
    except list_failures() as error:
        connect()
        raise DataError(
            f"the store does not take what is in the spool ({_name(error)})",
            hint="all else was sent; compare versions, rights and limits of size: the spool is kept",
            code="TRACKING_REFUSED",
        ) from error


def _name(error: Exception) -> str:
    # The text may hold credentials of the server.
    return getattr(error, "error_code", "") or type(error).__name__


def merge_headers(records: Sequence[Record]) -> Wanted:
    """Return the run that a spool is of, as its last session described it; first values of params stay."""
    runs = [{k: v for k, v in r.items() if k not in ("kind", "ms")} for r in records if r["kind"] == "run"]
    if not runs:
        raise DataError("the spool says nowhere which run it is of", hint="delete it", code="SPOOL_DAMAGED")
    first, last = Wanted(**runs[0]), Wanted(**runs[-1])
    params = {key: value for run in reversed(runs) for key, value in run["params"].items()}
    return replace(last, params=params, started_ms=first.started_ms)


def replay(client: Any, records: Sequence[Record], copies: Path) -> tuple[str, Counter[str]]:
    """Send the records of one spool; return the store's id of the run, and how much was sent of each kind.

    Raises:
        DataError: The store named the run once and does not know it now, or does not take something; all else
            was sent.
        ResourceError: It does not answer any more.
    """
    wanted = merge_headers(records)
    with _reaching():
        run, sent = _open(client, wanted)
    run_id = str(run.info.run_id)
    _tell(wanted, run_id)
    steps: list[Callable[[], Counter[str]]] = [
        lambda: _send_metrics(client, run_id, records),
        lambda: _send_tags(client, run, records),
        *(partial(_send_input, client, run_id, record) for record in records if record["kind"] == "input"),
        *(
            partial(_send_artifact, client, run, record, copies)
            for record in records
            if record["kind"] == "artifact"
        ),
        lambda: _send_status(client, run_id, records),
    ]
    refusals = []
    for step in steps:  # what is refused hinders nothing else
        try:
            with _reaching():
                sent += step()
        except DataError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]
    return run_id, sent


def is_waiting(client: Any, records: Sequence[Record]) -> bool:
    """Whether the run is to lie below one that is itself in a spool still."""
    wanted = merge_headers(records)
    above = wanted.parent_id
    if not above.startswith(LOCAL) or not (find_folder() / f"{above}.jsonl").exists():
        return False
    with _reaching():
        experiment_id = find_experiment(client, wanted.experiment, address.find_store())
        return look_up(client, [experiment_id], above) is None


def _is_older(record: Record, run: Any) -> bool:
    """Whether a process opened the run in the store after this was spooled."""
    return int(record["ms"]) < int(run.data.tags.get(OPENED, "0"))


def _has(client: Any, run_id: str, folder: str, name: str) -> bool:
    return any(entry.path == name for entry in client.list_artifacts(run_id, folder or None))


def _open(client: Any, wanted: Wanted) -> tuple[Any, Counter[str]]:
    store = address.find_store()
    known = look_up(client, [find_experiment(client, wanted.experiment, store)], wanted.id)
    if known is None and not wanted.id.startswith(LOCAL):
        raise DataError(
            "the store does not know the run, or it was deleted",
            hint="set MLFLOW_TRACKING_URI to the store that the run began in, or restore the run there",
            code="TRACKING_UNKNOWN_RUN",
        )
    run = open_run(client, store, wanted)
    had = known.data.params if known else {}
    return run, Counter(runs_created=int(known is None), params=len(set(wanted.params) - set(had)))


def _send_metrics(client: Any, run_id: str, records: Sequence[Record]) -> Counter[str]:
    from mlflow.entities import Metric

    points = [tuple(point) for record in records if record["kind"] == "metrics" for point in record["points"]]
    had = {
        (metric.key, metric.value, metric.timestamp, metric.step)
        for key in sorted({point[0] for point in points})
        for metric in client.get_metric_history(run_id, key)
    }
    new = [point for point in dict.fromkeys(points) if point not in had]
    for start in range(0, len(new), MAX_METRICS):
        client.log_batch(run_id, metrics=[Metric(*point) for point in new[start : start + MAX_METRICS]])
    return Counter(metrics=len(new))


def _send_tags(client: Any, run: Any, records: Sequence[Record]) -> Counter[str]:
    tags = {
        record["key"]: record["value"]
        for record in records
        if record["kind"] == "tag"
        and (record["key"] == TABLES or record["key"] not in run.data.tags or not _is_older(record, run))
    }
    if TABLES in tags:  # a later session may have logged other tables
        tables = json.loads(run.data.tags.get(TABLES, "[]"))
        tables += [table for table in json.loads(tags[TABLES]) if table not in tables]
        tags[TABLES] = json.dumps(tables)
    new = {key: value for key, value in tags.items() if run.data.tags.get(key) != value}
    for key, value in new.items():
        client.set_tag(run.info.run_id, key, value)
    return Counter(tags=len(new))


def _send_artifact(client: Any, run: Any, record: Record, copies: Path) -> Counter[str]:
    folder, run_id = record["name"].rpartition("/")[0], run.info.run_id
    if _is_older(record, run) and _has(client, run_id, folder, record["name"]):
        return Counter()
    client.log_artifact(run_id, str(copies / record["copy"]), folder or None)
    return Counter(artifacts=1)


def _send_input(client: Any, run_id: str, record: Record) -> Counter[str]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = [InputTag(key, value) for key, value in record["tags"].items()]
    client.log_inputs(run_id, [DatasetInput(Dataset(**record["dataset"]), tags)])
    return Counter(inputs=1)


def _send_status(client: Any, run_id: str, records: Sequence[Record]) -> Counter[str]:
    """End the run as its last session did; as KILLED if it could not say; not if it went on elsewhere."""
    last = max(i for i, record in enumerate(records) if record["kind"] == "run")
    said = [record for record in records[last:] if record["kind"] == "status"]
    status = said[-1]["status"] if said else "KILLED"
    if status != "RUNNING":
        client.set_terminated(run_id, status, records[-1]["ms"])
    return Counter()


def _tell(wanted: Wanted, run_id: str) -> None:
    """Put the store's id in the place of ours where the run's folder keeps it."""
    record = Path(wanted.record)
    if wanted.record and record.is_file() and run_id != wanted.id:
        write_text(record, record.read_text(encoding="utf-8").replace(wanted.id, run_id))
