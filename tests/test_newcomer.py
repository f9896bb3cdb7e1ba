"""A newcomer with a clone, an empty home, README and tutorial follows them to the letter, to a review page.

Every command is run as it stands, in the order of the pages, each page in one shell; trainings are short
(`tests/shown.py`). Two things are not done as a newcomer does them: the virtual environment is new, but sees
the packages of the one that runs the tests, since nothing is downloaded here; and `make test` is not run
inside of a test.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.shown import ROOT, SHORT, blocks, make_environment, run_bash

NEEDED = ("Makefile", "pyproject.toml", "constraints.txt")
CASES = 30  # six of which a fold holds out: the fewest that an interval is given for
LAUNCHER = "#!{python}\nfrom medseg.cli import main\n\nmain()\n"


def make_venv(folder: Path) -> None:
    """Make a new environment as `make` would, but for the download."""
    venv.create(folder, symlinks=True, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (packages / "borrowed.pth").write_text("\n".join(lines) + "\n")
    launcher = folder / "bin" / "medseg"
    launcher.write_text(LAUNCHER.format(python=folder / "bin" / "python"))
    launcher.chmod(0o755)
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
    return {name: value for name, value in found.items() if name not in {"MEDSEG_HOME", "VIRTUAL_ENV"}}


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


def test_readme_leads_to_a_review_page(clone: Path, environment: Mapping[str, str]):
    commands = read_commands(ROOT / "README.md")
    assert commands.startswith("make demo\n")
    run_bash(commands, clone, environment)
    assert reviewed(clone / "out" / "demo" / "phantom_ct_phantom_0") and reviewed(clone / "out" / "mine")
    assert [path.name for path in clone.parent.joinpath("home").rglob("mlflow.db")] == ["mlflow.db"]
    assert not (clone / "mlruns").exists()


def test_tutorial_leads_to_a_review_page(clone: Path, environment: Mapping[str, str], medseg_data: Path):
    cohort = clone / "hippocampus"
    tree = json.loads((medseg_data / "hippocampus" / "dataset.json").read_text())
    tree["training"] = tree["training"][:CASES]
    for entry in tree["training"]:
        for part in entry.values():
            (cohort / part).parent.mkdir(parents=True, exist_ok=True)
            (cohort / part).write_bytes((medseg_data / "hippocampus" / part).read_bytes())
    (cohort / "dataset.json").write_text(json.dumps(tree))
    run_bash(read_commands(ROOT / "docs" / "tutorial.md"), clone, environment)
    assert len(held_out(clone / "out" / "default")) == CASES // 5
    assert reviewed(clone / "out" / "default")
    assert (clone / "out" / "scores" / "metrics.json").is_file()
    assert (clone / "out" / "comparison" / "compare.png").is_file()
