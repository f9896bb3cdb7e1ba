"""What README.md and docs/*.md show is run: each document's blocks in order, in an empty folder.

How blocks are marked and run says `tests/shown.py`. README and tutorial are run by `tests/test_newcomer.py`.
"""

import re
from pathlib import Path

import pytest

from medseg.cli import app
from medseg.data.layouts import LAYOUTS, find_cohort
from medseg.data.settings import Channel, Data
from tests.dicom_cohort import write_dicom_cohort, write_scan, write_structures
from tests.nnunet_folders import write_results
from tests.shown import DOCUMENTS, FENCE, ROOT, blocks, list_commands, make_environment, run_bash, run_python
from tests.tiny import make_case

KINDS = re.compile(r"bash( run)?|python run|csv layout table|text( layout [a-z]+)?")
NEWCOMER = {"README.md", "tutorial.md"}
RUNNABLE = [path for path in DOCUMENTS if " run\n" in path.read_text() and path.name not in NEWCOMER]


def layout_blocks() -> list[tuple[str, str]]:
    found = blocks(ROOT / "docs" / "data.md")
    return [(kind.split()[-1], text) for kind, text in found if " layout " in kind]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_is_of_a_known_kind(path):
    assert [kind for kind, _ in blocks(path) if not KINDS.fullmatch(kind)] == []


def lay_out(name: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """Write what a reader of this page has and no command of it makes."""
    if name == "from_dicom.md":
        write_dicom_cohort(folder / "export", 5)
    elif name == "from_nnunet.md":
        write_results(folder / "nnUNet_results")
    elif name == "api.md":
        cohort = request.getfixturevalue("tiny_cohort")
        (folder / "RUN").symlink_to(request.getfixturevalue("tiny_run"))
        (folder / "scans").symlink_to(cohort / "imagesTr")
        (folder / "labels").symlink_to(cohort / "labelsTr")


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.name)
def test_runnable_blocks_run(path, tmp_path, monkeypatch, request):
    environment = make_environment(tmp_path)
    for name in ("MEDSEG_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, environment[name])
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    lay_out(path.name, folder, request)
    names = {"__name__": "docs"}
    for kind, text in blocks(path):
        if kind == "python run":
            run_python(text, path.name, names)
        elif kind == "bash run":
            run_bash(text, folder, environment)


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
    assert [name for name, _ in layout_blocks()] == list(LAYOUTS)


def test_every_command_has_a_section_whose_example_is_executed():
    page = (ROOT / "docs" / "commands.md").read_text()
    sections = dict(re.findall(r"^### (\S+)$(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL))
    names = [
        command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands
    ]
    groups = [group.name for group in app.registered_groups]
    assert sorted(sections) == sorted([*names, *groups])
    executed = list_commands(DOCUMENTS)
    for name, section in sections.items():
        (example,) = (text.strip() for _, text in FENCE.findall(section))
        assert example.startswith(f"medseg {name}") and example in executed
