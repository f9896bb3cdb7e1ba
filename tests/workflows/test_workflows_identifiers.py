"""60 identifiers planted in names and headers of scans: with --pseudonymize none is in RUN, OUT or MLflow."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from medseg.io import write_volume
from tests.tiny import make_case, medseg, write_cohort, write_settings

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

CASES, REFUSED = "abcdef", "g"
IN_NAME = ("Zolw{}nska", "Hanne{}lore", "MRN77{}31", "1953041{}", "alert(4{}4)", "cmd7{}('calc')")
IN_HEADER = ("Descr{}Zq", "Aux{}Zq", "Intent{}Zq", "Base{}Zq")
PLACES = (148, 228, 328, 14)  # descrip, aux_file, intent_name, db_name (nifti1.h)


def fill(texts: tuple[str, ...], case: str) -> list[str]:
    return [text.format((CASES + REFUSED).index(case) if "1953" in text else case.upper()) for text in texts]


def name_scan(case: str) -> str:
    """Return a file name as people make them, and as people should not."""
    surname, given, number, born, script, formula = fill(IN_NAME, case)
    return f"={formula} {surname}^{given}_{number}_{born}<script>{script}"


def plant(path: Path, case: str) -> None:
    """Write identifiers into the free texts of a NIfTI header."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for place, text in zip(PLACES, fill(IN_HEADER, case), strict=True):
        content[place : place + len(text)] = text.encode()
    path.write_bytes(gzip.compress(bytes(content), 1))


def damage(path: Path) -> None:
    """Leave out the last voxels, the header whole."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100], 1))


SECRETS = [text for case in CASES + REFUSED for text in (*fill(IN_NAME, case), *fill(IN_HEADER, case))] + [
    "Zqfolder"
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cases = (*CASES, REFUSED)
    folder = write_cohort(tmp_path_factory.mktemp("planted") / "Zqfolder", tuple(map(name_scan, cases)))
    for case in cases:
        for part in ("imagesTr", "labelsTr"):
            plant(folder / part / f"{name_scan(case)}.nii.gz", case)
    damage(folder / "imagesTr" / f"{name_scan(REFUSED)}.nii.gz")
    write_settings(folder.parent)
    return folder


@pytest.fixture(scope="module")
def left(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[str, bytes]]]:
    """Name and bytes of all that `run` and `infer` left, and what they printed."""
    folder = tmp_path_factory.mktemp("made")
    settings = ("--config", cohort.parent / "tiny.yaml", "--set", "train.epochs=1")
    for case in "ab":
        write_volume(cohort / "new" / f"{name_scan(case)}.nii.gz", make_case(9)[0])
        plant(cohort / "new" / f"{name_scan(case)}.nii.gz", case)
    damage(cohort / "new" / f"{name_scan('b')}.nii.gz")
    said = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MEDSEG_HOME", str(folder / "home"))
        for words in (
            ("run", "phantom_ct", "--data", cohort, *settings, "-o", folder / "RUN"),
            ("infer", cohort / "new", "-m", folder / "RUN", "-o", folder / "OUT", "--tracking"),
        ):
            result = medseg(*words, "--pseudonymize", "--json")
            assert result.exit_code == 3, result.stderr  # one case of each is refused
            said += json.dumps(json.loads(result.stdout))
        assert medseg("review", folder / "OUT", "--quiet").exit_code == 0
        with sqlite3.connect(folder / "home" / "mlflow.db") as database:
            dump = "\n".join(database.iterdump())
        database.close()
    yield [("printed", said.encode()), ("mlflow.db as text", dump.encode()), *read_all(folder)]


def read_all(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        yield "a name", path.name.encode()
        if path.is_file():
            content = path.read_bytes()
            yield path.name, content
            if path.suffix == ".gz":
                yield path.name, gzip.decompress(content)


def leaks(content: bytes) -> list[str]:
    return [secret for secret in SECRETS if secret.encode() in content]


def test_60_identifiers_are_planted(cohort: Path):
    assert len(set(SECRETS)) >= 60
    assert {secret for _, content in read_all(cohort.parent) for secret in leaks(content)} == set(SECRETS)


def test_none_is_in_anything_that_was_stored_or_printed_as_json(left: list[tuple[str, bytes]]):
    assert {name: leaks(content) for name, content in left if leaks(content)} == {}


def test_what_was_searched_holds_the_runs_their_tables_and_their_pictures(left: list[tuple[str, bytes]]):
    names = [name for name, _ in left]
    assert {"mlflow.db", "cases.json", "worst.png", "review.html", "MODEL_CARD.md"} <= set(names)
    assert names.count("cases.json") == 2  # of the run and of infer


def test_the_pages_of_run_and_infer_say_which_case_was_refused(left: list[tuple[str, bytes]]):
    pages = [content.decode() for name, content in left if name == "review.html"]
    found = [re.findall(r'"error":"(\w+): ', page) for page in pages]
    assert found == [["NII_TRUNCATED"]] * 3  # that of the run is in MLflow, too


def test_nothing_of_the_pages_is_executed(left: list[tuple[str, bytes]], tmp_path: Path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: no page is opened")
    noise: list[str] = []
    path = tmp_path / "review.html"
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("dialog", lambda dialog: (noise.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda asked: noise.append(asked.url) if asked.url != path.as_uri() else None)
        for content in [content for name, content in left if name == "review.html"]:
            path.write_bytes(content)
            page.goto(path.as_uri())
            for row in page.locator("#body tr").all():
                row.click()
            page.locator("body[data-case]").wait_for(state="attached")
            assert leaks(page.content().encode()) == []
        browser.close()
    assert noise == []


def test_no_cell_of_a_table_begins_as_a_formula(left: list[tuple[str, bytes]]):
    rows = [row for name, text in left if name.endswith(".csv") for row in text.decode().splitlines()]
    cells = [cell.strip('"') for row in rows for cell in row.split(",")]
    assert len(cells) > 100 and not [cell for cell in cells if cell.startswith(("=", "@", "\t"))]


NAMED = {
    "two labels with one id": ("imagesTr/Zq 1.png", "labelsTr/Zq 1.png", "labelsTr/Zq_1.png"),
    "two images with one id": ("imagesTr/Zq 1.png", "imagesTr/Zq_1.png", "labelsTr/Zq_1.png"),
    "a pattern that misses": ("imagesTr/Zq1.png", "labelsTr/Zq1.png"),
    "an entry that leads out": (
        ("dataset.json", '{"training": [{"image": "a.nii", "label": "../Zq9^Jane/b.nii"}]}'),
    ),
    "a row that leads out": (("list.csv", "id,ct,label\nZq1,../Zq9^Jane/a.nii,b.nii\n"),),
}


@pytest.mark.parametrize("what", NAMED)
def test_a_cohort_is_refused_without_a_name_of_its_files(what: str, tmp_path: Path):
    for made in NAMED[what]:
        name, text = (made, "") if isinstance(made, str) else made
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(text)
    data = tmp_path / "data" / "list.csv" if "row" in what else tmp_path / "data"
    words = ("--data", data, "-o", tmp_path / "RUN", "--set", "data.group_pattern=^sub(..)")
    result = medseg("check", "phantom_ct", *words, "--pseudonymize", "--json")
    code = json.loads(result.stdout)["error"]["code"]
    assert code in {"DUPLICATE_ID", "GROUP_UNMATCHED", "PATH_OUTSIDE_DATA"}
    assert "Zq" not in result.stdout + result.stderr
