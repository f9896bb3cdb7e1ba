"""Worker processes that are killed. Little is imported here: each worker imports this file again."""

import os
import signal
from pathlib import Path

import pytest

from medseg.core.errors import ResourceError
from medseg.workflows.parallel import Workers


def kill_one(item: tuple[str, str]) -> str:
    """Kill the worker at an item, once or always."""
    name, marker = item
    if name == "bad" and (marker == "always" or not Path(marker).exists()):
        if marker != "always":
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return name.upper()


def test_a_killed_preprocessing_worker_is_replaced_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    items = [(name, str(tmp_path / "killed")) for name in ("a", "bad", "c", "d")]
    with Workers(2) as workers:
        found = list(workers.map(kill_one, items, stage="preprocess", name=lambda item: item[0]))
        assert workers.count == 1
    assert sorted(found) == [(0, "A"), (1, "BAD"), (2, "C"), (3, "D")]
    assert "WORKER_RETRIED a worker was ended by SIGKILL at preprocess of bad" in caplog.text


def test_a_preprocessing_worker_that_is_killed_twice_is_named():
    with Workers(2) as workers, pytest.raises(ResourceError) as caught:
        list(
            workers.map(
                kill_one, [("bad", "always"), ("b", "")], stage="preprocess", name=lambda item: item[0]
            )
        )
    assert caught.value.code == "WORKER_DIED" and "SIGKILL at preprocess of bad" in caught.value.message
