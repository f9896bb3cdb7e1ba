"""How runs lie in MLflow's store: found, created, described, closed to others.

`MlflowClient` is used directly, since MLflow's global functions also record the OS user, the script's path
and the command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medseg.tracking import address, place, process
from medseg.tracking.spool import LOCAL, Wanted

KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the page for language models opens
ANONYMOUS = {"mlflow.user": "medseg", "mlflow.source.name": "medseg", "mlflow.source.type": "LOCAL"}
PARENT = "mlflow.parentRunId"
OWN_ID = "medseg.id"  # the tag with the id that we gave a run, by which a later sync finds it
OPENED = "medseg.opened_ms"  # the tag with when a process last opened the run in the store
MAX_VALUE = 6000  # characters; mlflow.utils.validation.MAX_PARAM_VAL_LENGTH
MAX_BATCH = 100  # params per call; MAX_PARAMS_TAGS_PER_BATCH
ABSOLUTE = r"[/~\\]|[A-Za-z]:[/\\]"  # how a path starts that tells about this machine


def open_run(client: Any, store: str, wanted: Wanted) -> Any:
    """Return the run as the store has it, with its parameters; it is created where it is not there."""
    experiment_id = find_experiment(client, wanted.experiment, store)
    if not wanted.parent_id:
        client.set_experiment_tag(experiment_id, address.VIEW_TAG, _word_view(wanted.columns))
        close_gone(client, [experiment_id])
    run = look_up(client, [experiment_id], wanted.id)
    if run is None:
        tags = {**wanted.tags, OWN_ID: wanted.id, **ANONYMOUS}
        if wanted.parent_id:
            parent = look_up(client, [experiment_id], wanted.parent_id)
            if parent or not wanted.parent_id.startswith(LOCAL):  # else its spool was removed
                tags[PARENT] = parent.info.run_id if parent else wanted.parent_id
        run = client.create_run(experiment_id, wanted.started_ms, tags, wanted.name)
    _log_params(client, run, wanted.params)
    return run


def close_gone(client: Any, experiment_ids: Sequence[str]) -> None:
    """Mark runs KILLED that still count as running though their process is gone: nobody else could."""
    for run in client.search_runs(experiment_ids, "attributes.status = 'RUNNING'"):
        if process.is_gone(run.data.tags.get(process.TAG, "")):
            client.set_terminated(run.info.run_id, "KILLED")


def find_experiment(client: Any, name: str, store: str) -> str:
    """Return the id of an experiment; it is created when absent, restored when deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        folder = None if address.is_server(store) else place.find_artifacts().as_uri()
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
    shown = ["attributes.`Duration`", *(f"metrics.`{clean(column)}`" for column in columns)]
    facets = {"lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": []}
    order = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "searchFilter": "",
    }
    return json.dumps({"selectedColumns": shown, **facets, **order})


def look_up(client: Any, experiment_ids: Sequence[str], run_id: str) -> Any:
    """Return a run by the store's id or by ours; None where it is not there or was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        found = client.search_runs(list(experiment_ids), f"tags.`{OWN_ID}` = '{run_id}'", max_results=1)
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


def find_folder(uri: str) -> Path | None:
    """Return the folder of a run's artifacts where it lies on this machine, else None."""
    parts = urlsplit(uri)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None


def close_to_others(root: Path, path: Path) -> None:
    """Let the owner alone read an artifact and the folders above it; `root` is the run's own, "artifacts"."""
    path.chmod(0o600)
    for folder in path.parents:
        folder.chmod(0o700)
        if folder == root.parent:  # the run's own folder
            return


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
            flat[clean(name)] = text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"
    return flat


def _hide_paths(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_hide_paths(item) for item in value]
    is_path = isinstance(value, Path) or (isinstance(value, str) and re.match(ABSOLUTE, value))
    return "<path>" if is_path else value


def clean(name: str) -> str:
    """Keep what MLflow allows in names: letters, digits, `_-. /:`, and no part of a path that is none."""
    parts = re.sub(r"[^\w\-. /:]", "_", name)[:250].split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "_"
