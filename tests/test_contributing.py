"""CONTRIBUTING.md, "Add a loss in three steps", followed to the letter in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- add-a-loss: step (\d) -->\n```\w+\n(.*?)```", re.DOTALL)
COPIED = ("medseg", "pipelines", "tests", "pyproject.toml")


@pytest.fixture(scope="module")
def steps() -> dict[int, str]:
    return {int(n): text for n, text in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def write_new_file(folder: Path, block: str) -> None:
    """Step 1: the first line names the file, all of it is the content."""
    (folder / block.splitlines()[0].removeprefix("# ")).write_text(block)


def insert_lines(folder: Path, block: str) -> None:
    """Step 2: the import goes after the last of its kind, the entry to the top of the dict."""
    name, new_import, new_entry = block.rstrip("\n").split("\n")
    path = folder / name.removeprefix("# ")
    lines = path.read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("from medseg.losses."))
    lines.insert(last + 1, new_import)
    table = next(i for i, line in enumerate(lines) if line.startswith("LOSSES: "))
    lines.insert(table + 1, new_entry)
    path.write_text("\n".join(lines) + "\n")


def test_a_loss_is_added_in_three_steps(steps: dict[int, str], copy: Path):
    assert sorted(steps) == [1, 2, 3]
    write_new_file(copy, steps[1])
    insert_lines(copy, steps[2])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # The copy comes before the installed package; -vv makes pytest name each test.
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(copy), "PYTEST_ADDOPTS": "-vvv"}
    shell = ["/bin/sh", "-c", steps[3]]
    result = subprocess.run(
        shell, cwd=copy, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    new = steps[2].splitlines()[2].split('"')[1]
    assert len(re.findall(rf"::test_\w+\[.*{new}.*PASSED", result.stdout)) >= 5, result.stdout
