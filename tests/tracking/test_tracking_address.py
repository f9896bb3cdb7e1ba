"""The address of the tracking store: a slip in it is refused before any work; its login is never shown."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from medseg.core.errors import ConfigError
from medseg.tracking.address import check_address, find_store, hide_login, link_to
from medseg.tracking.health import check_store
from medseg.tracking.place import make_home
from tests.tiny import medseg

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
SECRET = "me:secret@"


@pytest.mark.parametrize(
    "store", ["http://host", f"https://{SECRET}host:8080/base", "sqlite:////srv/runs.db", "sqlite:///runs.db"]
)
def test_an_address_of_a_server_or_database_is_taken(store: str):
    check_address(store)


@pytest.mark.parametrize(
    ("store", "why"),
    [
        ("http://", "it names no host"),
        (f"http://{SECRET}", "it names no host"),
        (f"http://{SECRET}host:99999", "it is no address"),
        (f"http://{SECRET}[::1", "it is no address"),
        ("sqlite:/srv/runs.db", "it is no address of a sqlite database"),
        (f"sqlite+nothing://{SECRET}/runs.db", "it is no address of a sqlite+nothing database"),
        ("sqlite://", "a database in memory ends with the command"),
        ("sqlite:///:memory:", "a database in memory ends with the command"),
        (f"htp://{SECRET}host", "MLflow takes no `htp` here"),
        ("./runs", "MLflow takes no `folder` here"),
    ],
)
def test_a_slip_of_the_pen_is_refused_without_showing_the_address(store: str, why: str):
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI") as caught:
        check_address(store)
    assert caught.value.code == "TRACKING_ADDRESS" and caught.value.message.endswith(why)
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ConfigError, match="the driver `pymysql` is not installed"):
        check_address(f"mysql+pymysql://{SECRET}localhost/runs")


def test_a_command_with_such_an_address_ends_before_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://host")
    result = medseg("run", "hippocampus_mr", "--data", tmp_path, "-o", tmp_path / "out", "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, "TRACKING_ADDRESS")
    assert not (tmp_path / "out").exists()


def test_doctor_tells_of_such_an_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://host")
    assert check_store() == ("not known", "MLFLOW_TRACKING_URI is of no use: MLflow takes no `htp` here")


def test_an_address_is_not_looked_at_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path))
    assert find_store() == f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("https://me:secret@host/mlflow?password=secret", "https://host/mlflow"),
        ("postgresql:///db", "postgresql:///db"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("mlruns", "mlruns"),
    ],
)
def test_a_store_is_shown_without_its_login(store: str, shown: str):
    assert hide_login(store) == shown


def test_link_drops_the_credentials_of_the_server():
    link = link_to("https://me:secret@host:8080/base/", "/experiments/1")

    assert link == "https://host:8080/base/#/experiments/1?workflowType=machine_learning"


@pytest.mark.parametrize(
    ("store", "name"),
    [
        ("sqlite:///{}/new/runs.db", "new/runs.db"),
        ("sqlite+pysqlite:///{}/runs.db?timeout=3", "runs.db"),
        ("sqlite:///file:{}/a%2520b.db?mode=rwc&uri=true", "a b.db"),
        ("sqlite:///runs.db", "runs.db"),
    ],
)
def test_a_database_that_is_named_is_made_for_its_owner_only(store, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.format(tmp_path))
    before = os.umask(0)
    try:
        make_home()
    finally:
        os.umask(before)
    assert oct((tmp_path / name).stat().st_mode & 0o777) == "0o600"


def test_a_database_that_exists_keeps_its_mode_and_its_content(tmp_path, monkeypatch):
    path = tmp_path / "runs.db"
    path.write_text("kept")
    path.chmod(0o640)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    make_home()
    assert (oct(path.stat().st_mode & 0o777), path.read_text()) == ("0o640", "kept")


def test_a_store_that_is_no_file_makes_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://host/runs")
    make_home()
    assert list(tmp_path.iterdir()) == []
