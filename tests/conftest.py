from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tiny import medseg, write_cohort, write_settings


@pytest.fixture(scope="session")
def medseg_data() -> Path:
    """The folder of real scans; see MEDSEG_DATA in CONTRIBUTING."""
    value = os.environ.get("MEDSEG_DATA", "")
    if not value:
        pytest.skip("MEDSEG_DATA is not set: real scans are not checked")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail("MEDSEG_DATA is set, but is not a folder")
    return folder


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled cases and their settings, tiny.yaml; read only."""
    folder = write_cohort(tmp_path_factory.mktemp("cohort") / "data")
    write_settings(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def tiny_run(tiny_cohort: Path, tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and tracked RUN of the tiny cohort, with stdout.json beside it; read only."""
    run = tmp_path_factory.mktemp("run") / "RUN"
    config = tiny_cohort / "tiny.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MEDSEG_HOME", str(tiny_home))
        result = medseg("run", "phantom_ct", "--data", tiny_cohort, "--config", config, "-o", run, "--json")
    assert result.exit_code == 0, result.stderr
    (run.parent / "stdout.json").write_text(result.stdout)
    (run.parent / "stderr.txt").write_text(result.stderr)
    return run
