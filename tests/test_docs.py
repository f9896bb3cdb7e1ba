"""What README.md and docs/*.md show is run: each document's blocks in order, in an empty folder.

How blocks are marked and run says `tests/shown.py`. README and tutorial are run by `tests/test_newcomer.py`.
"""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from medseg.cli import app
from medseg.data.layouts import LAYOUTS, find_cohort
from medseg.data.settings import Channel, Data
from tests.dicom_cohort import write_dicom_cohort, write_scan, write_structures
from tests.nnunet_folders import write_results
from tests.shown import DOCUMENTS, FENCE, ROOT, blocks, list_commands, make_environment, run_bash, run_python
from tests.tiny import make_case

KINDS = re.compile(r"bash( run)?|python run|csv layout table|text( layout [a-z]+)?")
SPAN = re.compile(r"`(medseg [a-z][^`]+)`")  # `medseg COMMAND` stands for any
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


def list_shown_commands(path: Path) -> list[str]:
    """Return what any block or sentence of a page shows as a command, continued lines in one."""
    page = path.read_text(encoding="utf-8")
    lines = [line for _, text in blocks(path) for line in text.replace("\\\n", " ").splitlines()]
    lines += [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", page))]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if re.match(r"(\.venv/bin/)?medseg ", part)]


VERBS = get_command(app)


def explain_refusal(line: str) -> str:
    """Return the verb or option that does not exist, "" where all do; words after two spaces are prose."""
    command, words = VERBS, re.split(r" {2,}| #", line)[0].split()[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if (verb := words.pop(0)) not in command.commands:
            return f"no verb {verb}"
        command = command.commands[verb]
    known = {"-h", "--help", *(name for one in command.params for name in (*one.opts, *one.secondary_opts))}
    unknown = [word for word in words if re.match("--?[a-z]", word) and word.split("=")[0] not in known]
    return " ".join(["no option", *unknown]) if unknown else ""


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_every_command_shown_has_a_verb_and_options_that_exist(path):
    refused = {line: explain_refusal(line) for line in list_shown_commands(path)}
    assert {line: why for line, why in refused.items() if why} == {}


def test_a_verb_and_an_option_that_are_not_there_are_noticed():
    told = [
        explain_refusal(f"medseg {line}") for line in ("see a", "train a --past", "tracking sync --force")
    ]
    assert told == ["no verb see", "no option --past", "no option --force"]


def test_commands_are_found_in_blocks_and_in_sentences():
    assert "medseg train out/hippo --fold 3" in str(
        list_shown_commands(ROOT / "docs" / "cross_validation.md")
    )
    assert len({line for path in DOCUMENTS for line in list_shown_commands(path)}) > 60
