"""Killed once in each verb and started again; `benchmarks/kill.py` does it ten times."""

import json
import subprocess
import sys
from pathlib import Path

KILL = Path(__file__).parents[2] / "benchmarks/kill.py"


def test_a_killed_and_repeated_command_ends_with_the_same_bytes(tmp_path: Path):
    result = tmp_path / "kill.json"
    small = ["--kills", "1", "--in-write", "1", "--cases", "4", "--epochs", "4", "--net", "thin"]
    command = [sys.executable, str(KILL), "--json", str(result), *small]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.exists(), ended.stderr
    tree = json.loads(result.read_text())
    assert [(row["verb"], row["different"]) for row in tree["rows"]] == [
        ("preprocess", []),
        ("train", []),
        ("infer", []),
    ]
    assert tree["rows"][1]["killed_in_checkpoint"] >= 1
    assert ended.returncode == 0 and tree["ok"] and tree["ratio"] == tree["target"]
