"""The folder of runs on this machine, and the settings every MLflow process of ours starts with.

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
from urllib.parse import unquote, urlsplit

from medseg.core.files import make_folder

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


def find_artifacts() -> Path:
    """Return the folder of artifacts; a tracking server keeps them itself and does not use it."""
    return find_home() / "artifacts"


def make_home() -> None:
    """Create folder (0700) and database file (0600); SQLite gives its journals the mode of the database.

    A database that exists keeps its mode: its owner may share it.
    """
    make_folder(find_artifacts())
    store = os.environ.get("MLFLOW_TRACKING_URI")
    database = find_database(store) if store else find_home() / "mlflow.db"
    if database is not None and not database.exists():
        make_folder(database.parent)
        database.touch(mode=0o600)


def find_database(store: str) -> Path | None:
    """Return the file of a SQLite store, as SQLAlchemy finds it; None of any other store."""
    if not store.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url

    url = make_url(store)
    ((name,), options) = url.get_dialect()().create_connect_args(url)
    return Path(unquote(urlsplit(name).path) if options.get("uri") else name)
