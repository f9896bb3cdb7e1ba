"""Which cases a run holds out."""

import json
from pathlib import Path

from tests.tiny import medseg


def split(cohort: Path, run: Path, seed: int, *settings: str):
    config = ("--config", cohort / "tiny.yaml", "--seed", seed)
    result = medseg("plan", "phantom_ct", "--data", cohort, *config, *settings, "-o", run)
    assert result.exit_code == 0, result.stderr
    return json.loads((run / "splits.json").read_text())["folds"]


def test_the_seed_of_a_run_deals_its_folds(tiny_cohort: Path, tmp_path: Path):
    folds = [split(tiny_cohort, tmp_path / str(seed), seed) for seed in (0, 1, 2)]
    assert not folds[0] == folds[1] == folds[2]


def test_runs_of_other_seeds_share_folds_where_the_split_has_its_own(tiny_cohort: Path, tmp_path: Path):
    own = ("--set", "split.seed=0")
    folds = [split(tiny_cohort, tmp_path / f"own{seed}", seed, *own) for seed in (0, 1, 2)]
    assert folds[0] == folds[1] == folds[2] == split(tiny_cohort, tmp_path / "plain", 0)
