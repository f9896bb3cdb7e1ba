"""`torchrun -m medseg train RUN --fold all`: one job trains every fold, as one process would."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import medseg


def one_epoch(tiny_run: Path, folder: Path) -> Path:
    """Return a preprocessed run of two folds and one epoch, of which nothing was trained."""
    run = Path(shutil.copytree(tiny_run, folder))
    for part in ("fold_0", "model", "predictions"):
        shutil.rmtree(run / part)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 1"))
    return run


def losses(run: Path, fold: int) -> list[float]:
    with (run / f"fold_{fold}/history.csv").open(newline="") as stream:
        return [float(row["train/loss"]) for row in csv.DictReader(stream)]


def test_two_processes_train_all_folds_as_one_does(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pair = one_epoch(tiny_run, tmp_path / "pair")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "medseg", "train", str(pair), "--fold", "all", "--no-tracking", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, *command], capture_output=True, env=environment, timeout=200)
    assert result.returncode == 0, result.stderr.decode()
    monkeypatch.setattr("medseg.workflows.run.score", lambda *a, report, **k: [])
    for step in ("write_results", "build", "track_results"):
        monkeypatch.setattr(f"medseg.workflows.run.{step}", lambda *a, **k: None)
    alone = one_epoch(tiny_run, tmp_path / "alone")
    assert medseg("train", alone, "--fold", "all", "--no-tracking", "--json").exit_code == 0
    for fold in (0, 1):
        assert losses(pair, fold) == pytest.approx(losses(alone, fold), abs=1e-4)
        assert len(losses(pair, fold)) == 1
    assert (pair / "evaluation/metrics.json").exists()  # and rank 0 went on to the end
