"""`.ci/run` verifies with every tool or fails; make and the tools are stand-ins here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "run"


@pytest.fixture
def clone(tmp_path):
    """A clone in which make and all tools write down what they see and succeed."""
    root = tmp_path / "checkout" / "main"
    for folder in (root / ".ci", root / ".venv" / "bin", tmp_path / "bin"):
        folder.mkdir(parents=True)
    shutil.copy(SCRIPT, root / ".ci" / "run")
    for name in ("python", "ruff", "mypy", "pytest", "dcm2niix", "segimage2itkimage"):
        write_tool(root / ".venv" / "bin" / name, "exit 0")
    write_tool(tmp_path / "bin" / "dciodvfy", "exit 0")
    write_tool(
        tmp_path / "bin" / "make", f'echo "$1 data=${{MEDSEG_DATA:-}}" >> {tmp_path}/made; exit ${{FAIL:-0}}'
    )
    return root


def write_tool(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def run(clone: Path, **environment: str) -> tuple[int, list[str]]:
    scratch = clone.parent.parent
    path = f"{scratch / 'bin'}{os.pathsep}{os.environ['PATH']}"
    clean = {name: value for name, value in os.environ.items() if name != "MEDSEG_DATA"}
    done = subprocess.run(
        [clone / ".ci" / "run"], env={**clean, "PATH": path, **environment}, capture_output=True, cwd="/"
    )
    made = scratch / "made"
    return done.returncode, made.read_text().splitlines() if made.exists() else []


def test_checks_then_tests(clone):
    assert run(clone) == (0, [".venv/stamp data=", "check data=", "test data="])


def test_real_scans_beside_the_clone_are_used(clone):
    data = clone.parent / "shared" / "data"
    data.mkdir(parents=True)
    code, made = run(clone)
    assert (code, made[-1]) == (0, f"test data={data}")


def test_named_data_win_even_where_they_are_missing(clone):
    assert run(clone, MEDSEG_DATA="/nowhere")[1][-1] == "test data=/nowhere"


@pytest.mark.parametrize("tool", ["ruff", "mypy", "pytest", "dcm2niix", "segimage2itkimage"])
def test_fails_before_anything_is_verified_where_a_tool_is_absent(clone, tool):
    (clone / ".venv" / "bin" / tool).unlink()
    code, made = run(clone)
    assert code != 0
    assert made == [".venv/stamp data="]


def test_fails_where_make_fails(clone):
    assert run(clone, FAIL="2")[0] != 0
