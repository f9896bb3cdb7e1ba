from __future__ import annotations

import os
from pathlib import Path

import pytest


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
