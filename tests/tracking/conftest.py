import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tracking_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests, since it takes seconds to create; each test names its own experiment."""
    return tmp_path_factory.mktemp("tracking") / "my home"


@pytest.fixture(autouse=True)
def no_spool_left(tracking_home: Path) -> Iterator[None]:
    yield
    shutil.rmtree(tracking_home / "spool", ignore_errors=True)


@pytest.fixture(autouse=True)
def private_environment(tracking_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if "MLFLOW" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEDSEG_HOME", str(tracking_home))
    monkeypatch.setenv("LOGNAME", "drsmith")
    # What prepare_mlflow sets during a test is taken back after it.
    from medseg.tracking.place import SETTINGS

    for name in (*SETTINGS, "_MLFLOW_SERVER_ARTIFACT_ROOT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
