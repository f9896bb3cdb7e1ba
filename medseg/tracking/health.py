"""Can runs be tracked? Answered without MLflow, whose import takes seconds, and without changing anything."""

from __future__ import annotations

import os
import sqlite3
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from medseg.core.errors import ConfigError
from medseg.tracking.address import find_store, is_server
from medseg.tracking.place import find_home

TIMEOUT_S = 5.0


def check_store() -> tuple[str, str]:
    """Return what the tracking store is, and what is wrong with it ("" for nothing), without its address."""
    try:
        store = find_store()
    except ConfigError as error:
        return "not known", error.message
    if is_server(store):
        return "a server", _ask_server(store)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return f"{urlsplit(store).scheme}, not checked", ""
    path = find_home() / "mlflow.db"
    if path.exists():
        return "a database", _open_database(path)
    there = next(folder for folder in path.parents if folder.exists())
    return "a database, made by the first run", "" if os.access(there, os.W_OK) else "its folder is read-only"


def _ask_server(store: str) -> str:
    parts = urlsplit(store)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/health")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"it does not answer ({type(error).__name__})"
    finally:
        connection.close()
    # A server that wants a password answers, too.
    return "" if status < 400 or status in (401, 403) else f"it answers with status {status}"


def _open_database(path: Path) -> str:
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=TIMEOUT_S)
        try:
            connection.execute("select count(*) from experiments").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return f"it cannot be read ({type(error).__name__})"
    return ""
