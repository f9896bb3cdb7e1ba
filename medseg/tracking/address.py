"""The address of the tracking store: found, checked, shown and linked to, all without connecting.

A store that does not answer is a matter of the network and costs no work; a slip of the pen in its address
never mends itself, so that is refused before any work.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from medseg.core.errors import ConfigError
from medseg.tracking.place import find_home, prepare_mlflow

VIEW = "medseg"  # the list of runs with our columns; MLflow's own shows no metric
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
DEFAULT_PORT = 5000  # MLflow's own
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # mlflow.store.db_types


def find_store() -> str:
    """Return the URI of the tracking store: `MLFLOW_TRACKING_URI` or the database in the home folder.

    Raises:
        ConfigError: TRACKING_ADDRESS: it is none, or its driver is not installed.
    """
    store = os.environ.get("MLFLOW_TRACKING_URI")
    if store:
        check_address(store)
    return store or f"sqlite:///{find_home() / 'mlflow.db'}"


def is_server(store: str) -> bool:
    """Say whether the store is a running server rather than a database."""
    return urlsplit(store).scheme in ("http", "https")


def name_server(store: str) -> str:
    """Return the address of the pages: the server's own, or where `medseg ui` serves a database."""
    return store if is_server(store) else f"http://127.0.0.1:{DEFAULT_PORT}"


def hide_login(store: str) -> str:
    """Return the URI of a store without the name, password and options that it may carry."""
    parts = urlsplit(store)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else store


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


def check_address(store: str) -> None:
    """Refuse an address that no store can have, or whose driver is not installed here.

    Raises:
        ConfigError: TRACKING_ADDRESS. Its text names no more than the scheme: an address may hold a password.
    """
    try:
        parts = urlsplit(store)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise _refuse("it is no address", "for example http://127.0.0.1:5000") from None
    if scheme in ("http", "https"):
        if not host:
            raise _refuse("it names no host", "for example http://127.0.0.1:5000")
    elif scheme.partition("+")[0] in DATABASES:
        _check_database(store, scheme)
    else:
        _ask_mlflow(store, scheme)


def _check_database(store: str, scheme: str) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(store)
        dialect = url.get_dialect()
        dialect.import_dbapi()
    except ArgumentError:  # what NoSuchModuleError, an unknown `+driver`, is, too
        raise _refuse(
            f"it is no address of a {scheme} database", "for example sqlite:////data/runs.db"
        ) from None
    except ImportError as error:
        raise _refuse(f"the driver `{error.name}` is not installed", f"pip install {error.name}") from error
    if dialect.name == "sqlite" and url.database in (None, "", ":memory:"):
        raise _refuse("a database in memory ends with the command", "for example sqlite:////data/runs.db")


def _ask_mlflow(store: str, scheme: str) -> None:
    """Let MLflow say whether it knows a scheme: of a plugin, or its own service."""
    prepare_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        MlflowClient(store)
    except MlflowException as error:
        known = f"http, https, {', '.join(DATABASES)}"
        raise _refuse(f"MLflow takes no `{scheme or 'folder'}` here", f"it takes {known}") from error


def _refuse(why: str, hint: str) -> ConfigError:
    return ConfigError(f"MLFLOW_TRACKING_URI is of no use: {why}", hint=hint, code="TRACKING_ADDRESS")
