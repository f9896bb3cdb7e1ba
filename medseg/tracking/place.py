"""Where runs are tracked, and the settings every MLflow process of ours starts with.

MLflow's own defaults are a database in the current folder, telemetry, a job runner, unpickling, and HTTP
retries that hold a caller for minutes. All are switched by environment variables, some of which MLflow reads
while it is imported: `prepare_mlflow` comes before every import of it, and mends what MONAI, which imports
MLflow where it is installed, has already started.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from medseg.core.files import make_folder

VIEW = "medseg"  # the list of runs with our columns; MLflow's own shows no metric
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
DEFAULT_PORT = 5000  # MLflow's own

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # else a model takes the current folder's uv.lock along
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a server's run; --json has stdout to itself
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else ten lines about database migrations on first use
}


def prepare_mlflow() -> None:
    """Set what the user has not set in the environment; this process and its children inherit it."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # The first client of a new database makes an experiment "Default" that stores the current folder's path.
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = find_artifacts().as_uri()
    if "mlflow" in sys.modules:
        from mlflow.telemetry import set_telemetry_client

        set_telemetry_client()  # looks at the environment again, and drops the client
        logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])


def find_home() -> Path:
    """Return the tracking folder: `$MEDSEG_HOME`, or ~/.local/share/medseg. It need not exist."""
    return Path(os.environ.get("MEDSEG_HOME") or "~/.local/share/medseg").expanduser().absolute()


def find_store() -> str:
    """Return the URI of the tracking store: `MLFLOW_TRACKING_URI` or the database in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{find_home() / 'mlflow.db'}"


def find_artifacts() -> Path:
    """Return the folder of artifacts; a tracking server keeps them itself and does not use it."""
    return find_home() / "artifacts"


def is_server(store: str) -> bool:
    """Say whether the store is a running server rather than a database."""
    return urlsplit(store).scheme in ("http", "https")


def hide_login(store: str) -> str:
    """Return the URI of a store without the name, password and options that it may carry."""
    parts = urlsplit(store)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else store


def make_home() -> None:
    """Create folder (0700) and database file (0600); SQLite gives its journals the mode of the database."""
    make_folder(find_artifacts())
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        (find_home() / "mlflow.db").touch(mode=0o600, exist_ok=True)


def link_to(server: str, fragment: str, view: str = "") -> str:
    """Return a link into the web interface, without the credentials that `server` may carry.

    MLflow 3 opens on its pages for language models; the query parameter after the fragment selects the
    pages with runs, charts and artifacts. `view` names a stored view of the list of runs.
    """
    parts = urlsplit(server)
    shared = f"&viewStateShareKey={view}" if view else ""
    host = parts.netloc.rpartition("@")[2]
    return (
        f"{parts.scheme}://{host}{parts.path.rstrip('/')}/#{fragment}?workflowType=machine_learning{shared}"
    )
