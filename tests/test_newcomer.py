"""A newcomer with a clone, an empty home, README and tutorial follows them to the letter, to a review page.

Every command is run as it stands, in the order of the pages, each page in one shell; trainings are short
(`tests/shown.py`). Two things are not done as a newcomer does them: medseg is built and installed into a new
virtual environment, but what it needs is borrowed from the one that runs the tests, since nothing is
downloaded here; and `make test` is not run inside of a test.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

import medseg
from tests.shown import ROOT, SHORT, blocks, make_environment, run_bash

NEEDED = ("Makefile", "pyproject.toml", "constraints.txt")
BUILT = ("pyproject.toml", "README.md", "LICENSE", "medseg", "pipelines")
CASES = 30  # six of which a fold holds out: the fewest that an interval is given for
QUIET = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")


def run_pip(*words: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def build_wheel(folder: Path) -> Path:
    """Build medseg in a copy of what it is built from, since a build leaves files beside it."""
    copy = folder / "source"
    for name in BUILT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, copy)
    run_pip("wheel", *QUIET, "--no-build-isolation", "--wheel-dir", folder / "dist", copy)
    (wheel,) = (folder / "dist").glob("medseg-*.whl")
    return wheel


def find_packages(folder: Path) -> Path:
    (packages,) = folder.glob("lib/python*/site-packages")
    return packages


def make_venv(folder: Path) -> None:
    """Make a new environment as `make` would, but for the download: all but medseg is borrowed."""
    venv.create(folder, symlinks=True, with_pip=False)
    run_pip("--python", folder / "bin" / "python", "install", *QUIET, build_wheel(folder.parent.parent))
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (find_packages(folder) / "borrowed.pth").write_text("\n".join(lines) + "\n")
    (folder / "stamp").touch()  # newer than what make compares it with


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make needs of a clone, and nothing else."""
    folder = tmp_path_factory.mktemp("newcomer") / "clone"
    folder.mkdir()
    for name in NEEDED:
        shutil.copy(ROOT / name, folder)
    make_venv(folder / ".venv")
    return folder


@pytest.fixture(scope="module")
def environment(clone: Path) -> Mapping[str, str]:
    """An empty home, the system's programs, and runs that are tracked where a newcomer's are."""
    home = clone.parent / "home"
    home.mkdir()
    ours = str(Path(sys.executable).parent)
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != ours)
    found = make_environment(clone.parent, HOME=str(home), PATH=path, OPTIONS=SHORT, TRACKING="")
    kept = {name: value for name, value in found.items() if name not in {"MEDSEG_HOME", "VIRTUAL_ENV"}}
    return {**kept, "PYTHONPATH": found["PYTHONPATH"].split(os.pathsep)[0]}  # not this medseg


def read_commands(page: Path) -> str:
    """Return the commands of a page in their order, but for `make test`."""
    texts = [text for kind, text in blocks(page) if kind in {"bash", "bash run"}]
    return "".join(texts).replace("make test\n", "")


def held_out(run: Path) -> list[str]:
    return [path.name.removesuffix(".nii.gz") for path in run.glob("predictions/fold_0/*.nii.gz")]


def reviewed(run: Path) -> bool:
    """Say whether the review page of a run has every case that was held out."""
    page = (run / "review.html").read_text()
    return bool(held_out(run)) and all(name in page for name in held_out(run))


def ask(clone: Path, environment: Mapping[str, str], *words: str) -> list[str]:
    command = [clone / ".venv" / "bin" / words[0], *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=clone, env=environment, check=True)
    return done.stdout.split()


def test_medseg_is_the_one_of_the_wheel(clone: Path, environment: Mapping[str, str]):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    where = "import medseg, medseg_pipelines as p; print(medseg.__file__, p.__path__[0])"
    assert {Path(path).parent for path in ask(clone, environment, "python", "-c", where)} == {
        find_packages(clone / ".venv") / "medseg", find_packages(clone / ".venv"),
    }  # fmt: skip
    assert ask(clone, environment, "medseg", "--version") == ["medseg", medseg.__version__]
    named = project["entry-points"]["medseg.pipelines"]
    assert ask(clone, environment, "medseg", "list", "pipelines") == sorted(named)


@pytest.mark.parametrize(("source", "name"), [("medseg", "medseg"), ("pipelines", "medseg_pipelines")])
def test_the_wheel_has_every_file_of_the_package(source: str, name: str, clone: Path):
    files = [path for path in (ROOT / source).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    there = find_packages(clone / ".venv") / name
    assert len(files) > 4
    assert [path for path in files if not (there / path.relative_to(ROOT / source)).is_file()] == []


def test_readme_leads_to_a_review_page(clone: Path, environment: Mapping[str, str]):
    commands = read_commands(ROOT / "README.md")
    assert commands.startswith("make demo\n")
    run_bash(commands, clone, environment)
    assert reviewed(clone / "out" / "demo" / "phantom_ct_phantom_0") and reviewed(clone / "out" / "mine")
    assert [path.name for path in clone.parent.joinpath("home").rglob("mlflow.db")] == ["mlflow.db"]
    assert not (clone / "mlruns").exists()


def test_tutorial_leads_to_a_review_page(clone: Path, environment: Mapping[str, str], medseg_data: Path):
    cohort = clone.parent / "Task04_Hippocampus"
    tree = json.loads((medseg_data / "hippocampus" / "dataset.json").read_text())
    tree["training"] = tree["training"][:CASES]
    for entry in tree["training"]:
        for part in entry.values():
            (cohort / part).parent.mkdir(parents=True, exist_ok=True)
            (cohort / part).write_bytes((medseg_data / "hippocampus" / part).read_bytes())
    (cohort / "dataset.json").write_text(json.dumps(tree))
    with tarfile.open(clone / "Task04_Hippocampus.tar", "w") as archive:
        archive.add(cohort, cohort.name)
    run_bash(read_commands(ROOT / "docs" / "tutorial.md"), clone, environment)
    assert len(held_out(clone / "out" / "default")) == CASES // 5
    assert reviewed(clone / "out" / "default")
    assert (clone / "out" / "scores" / "metrics.json").is_file()
    assert (clone / "out" / "comparison" / "compare.png").is_file()
