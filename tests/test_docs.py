"""What README.md and docs/*.md show is run: each document's blocks in order, in an empty folder.

A fence's first words say how: `bash run` and `python run` are executed, `csv layout NAME` and
`text layout NAME` list files of a cohort that must be recognised as NAME, plain `bash` holds make targets,
plain `text` is prose. Training is shortened here, by a function around `medseg`, not in the documents.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.data.layouts import find_cohort
from medseg.data.settings import Channel, Data
from tests.dicom_cohort import write_scan, write_structures
from tests.tiny import make_case

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KINDS = re.compile(r"bash( run)?|python run|csv layout table|text( layout [a-z]+)?")

TINY = {
    "train.epochs": 1,
    "train.iterations_per_epoch": 1,
    "train.validate_cases": 0,
    "model.options.features": "[4,4,4,4,4,4]",
    "infer.overlap": 0,
    "workers": 1,
    "threads": 1,  # the cores may be shared
}
PREAMBLE = f"""set -euo pipefail
tiny="{" ".join(f"--set {key}={value}" for key, value in TINY.items())}"
medseg() {{
    case "$1" in
        check) command medseg "$@" $tiny ;;
        run) command medseg "$@" $tiny --no-tracking ;;
        infer) command medseg "$@" --threads 1 ;;
        *) command medseg "$@" ;;
    esac
}}
"""


def blocks(path: Path) -> list[tuple[str, str]]:
    return FENCE.findall(path.read_text(encoding="utf-8"))


def layout_blocks() -> list[tuple[str, str]]:
    found = blocks(ROOT / "docs" / "data.md")
    return [(kind.split()[-1], text) for kind, text in found if " layout " in kind]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_is_of_a_known_kind(path):
    assert [kind for kind, _ in blocks(path) if not KINDS.fullmatch(kind)] == []


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if " run\n" in path.read_text()], ids=lambda path: path.name
)
def test_runnable_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for kind, text in blocks(path):
        if kind == "python run":
            exec(compile(text, path.name, "exec"), {"__name__": "docs"})  # noqa: S102
        elif kind == "bash run":
            done = subprocess.run(["bash", "-c", PREAMBLE + text], capture_output=True, text=True)
            assert done.returncode == 0, f"{text}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_plain_bash_holds_targets_of_the_makefile(path):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    lines = [line for kind, text in blocks(path) if kind == "bash" for line in text.splitlines()]
    assert [line for line in lines if line.removeprefix("make ") not in targets] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize(("name", "text"), layout_blocks(), ids=lambda value: value.split("\n")[0])
def test_each_layout_shown_is_recognised_with_its_labels(name, text, tmp_path):
    root, channels = tmp_path / "cohort", ["image"]
    if name == "table":
        root = tmp_path / "cohort.csv"
        root.parent.mkdir(exist_ok=True)
        root.write_text(text)
        channels = ["t1", "flair"]
    elif name == "dicom":
        images, structures = text.splitlines()[0], text.splitlines()[-1]
        image, label = make_case(0)
        folder = write_scan((root / images).parent, image)
        write_structures(root / structures, label, folder, names={1: "a"})
    else:
        for line in text.splitlines():
            (root / line).parent.mkdir(parents=True, exist_ok=True)
            (root / line).touch()
        channels *= text.count("_0001.") + 1
        if name == "msd":
            _, image, label = text.splitlines()
            (root / "dataset.json").write_text(
                f'{{"training": [{{"image": "{image}", "label": "{label}"}}]}}'
            )
    settings = Data(channels={f"{c}{i}": Channel() for i, c in enumerate(channels)}, labels={1: "a"})
    if name == "table":
        settings = Data(channels={c: Channel() for c in channels}, labels={1: "a"})
    found, cases = find_cohort(root, settings, lambda: b"key")
    assert found == name
    assert all(case.label and len(case.images) == len(channels) for case in cases)


def test_every_layout_is_shown():
    from medseg.data.layouts import LAYOUTS

    assert [name for name, _ in layout_blocks()] == list(LAYOUTS)
