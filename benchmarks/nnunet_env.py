"""Set up nnU-Net v2, the peer of several benchmarks, in a virtual environment of its own.

    python benchmarks/nnunet_env.py [FOLDER]      default: build/nnunet-env

A folder that already holds the pinned versions is used as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT = HERE.parent / "build" / "nnunet-env"
REQUIREMENTS = HERE / "nnunet-requirements.txt"
TORCH = "torch==2.13.0"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


class NotInstallable(RuntimeError):  # noqa: N818  (reads as what happened)
    """The environment could not be built."""


def ensure(folder: Path = DEFAULT) -> Path:
    """Return the folder of the environment's programs, building it where needed.

    Raises:
        NotInstallable: With the last words of the step that failed.
    """
    programs = folder / "bin"
    wanted = f"{TORCH}\n{REQUIREMENTS.read_text()}"
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return programs
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, TORCH])
    _run([*pip, "--no-deps", "-r", str(REQUIREMENTS)])
    _run([str(programs / "nnUNetv2_plan_and_preprocess"), "-h"])
    stamp.write_text(wanted)
    return programs


def environment(folder: Path) -> dict[str, str]:
    """Return this process's environment with nnU-Net's three folders below `folder`."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    return {**os.environ, "nnUNet_compile": "f", **{name: str(folder / name) for name in FOLDERS}}


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise NotInstallable(f"`{' '.join(command[1:4])} …` failed: {' / '.join(lines[-3:])}")


if __name__ == "__main__":
    print(ensure(Path(sys.argv[1]) if sys.argv[1:] else DEFAULT))
