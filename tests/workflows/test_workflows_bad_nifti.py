"""Ten broken cases beside good ones: each is named with code and hint, the good ones are done."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from tests.bad_nifti import BAD_IMAGES, BAD_LABELS, IO_CODES, make_image, write_label, write_nifti
from tests.tiny import document, medseg, write_settings

CODES = IO_CODES | {
    "three_channels": "CHANNELS",
    "label_on_another_grid": "GRID_MISMATCH",
    "label_outside_set": "LABEL_VALUE",
}
GOOD = ("good_1", "good_2", "good_3")
FIRST = re.compile(r"^([A-Z0-9_]+) (\S+): \S.*[^:]$")
HINT = re.compile(r"^  hint: \S.*$")


def write_good_image(path: Path, seed: int) -> Path:
    noise = np.random.default_rng(seed).integers(0, 9, make_image().shape).astype(np.int16)
    return write_nifti(path, make_image() + noise)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten bad cases and three good ones, as two folders."""
    root = tmp_path_factory.mktemp("bad") / "data"
    images, labels = root / "images", root / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    for seed, name in enumerate((*GOOD, *BAD_LABELS)):
        write_good_image(images / f"{name}.nii.gz", seed)
    for name in (*GOOD, *BAD_IMAGES):
        write_label(labels / f"{name}.nii.gz")
    for folder, writers in ((images, BAD_IMAGES), (labels, BAD_LABELS)):
        for name, write in writers.items():
            write(folder / f"{name}.nii.gz")
    write_settings(root)
    return root


def preprocess(verb: str, cohort: Path, run: Path, *more: str) -> Result:
    return medseg(verb, "phantom_ct", "--data", cohort, "--config", cohort / "tiny.yaml", "-o", run, *more)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def results(cohort: Path, tiny_run: Path, out: Path) -> dict[str, Result]:
    return {
        "check": preprocess("check", cohort, out / "check", "--json"),
        "preprocess": preprocess("preprocess", cohort, out / "preprocess", "--json"),
        "infer": medseg("infer", cohort / "images", "-m", tiny_run, "-o", out / "infer", "--json"),
    }


def bad_names(verb: str) -> set[str]:
    return set(BAD_IMAGES) if verb == "infer" else set(BAD_IMAGES) | set(BAD_LABELS)


every_verb: Callable = pytest.mark.parametrize("verb", ["check", "preprocess", "infer"])


@every_verb
def test_the_exit_code_says_that_cases_are_bad(results: dict[str, Result], verb: str):
    assert results[verb].exit_code == 3


@every_verb
def test_each_bad_case_gets_two_lines_with_its_code(results: dict[str, Result], verb: str):
    lines = results[verb].stderr.splitlines()
    found = {}
    for line, following in pairwise(lines):
        if match := FIRST.match(line):
            assert HINT.match(following), line
            found[match.group(2)] = match.group(1)
    assert found == {name: CODES[name] for name in bad_names(verb)}


@every_verb
def test_no_traceback_and_no_path_in_the_messages(results: dict[str, Result], verb: str, cohort: Path):
    assert "Traceback" not in results[verb].stderr and str(cohort) not in results[verb].stderr


@every_verb
def test_the_report_says_the_same_and_the_good_cases_are_done(results: dict[str, Result], verb: str):
    cases = {case["id"]: case for case in document(results[verb])["cases"]}
    assert {name: case["code"] for name, case in cases.items() if case["status"] == "rejected"} == {
        name: CODES[name] for name in bad_names(verb)
    }
    assert {name for name, case in cases.items() if case["status"] == "done"} == cases.keys() - bad_names(
        verb
    )
    assert set(GOOD) < cases.keys()


def test_only_good_cases_are_stored(results: dict[str, Result], out: Path):
    store = out / "preprocess/store"
    assert {path.name for path in store.iterdir()} == set(GOOD)


def test_only_good_cases_have_masks(results: dict[str, Result], out: Path):
    done = (*GOOD, *BAD_LABELS)  # their images are good
    expected = {"report.json"} | {name + suffix for name in done for suffix in (".nii.gz", ".json")}
    assert {path.name for path in (out / "infer").iterdir()} == expected


def test_no_temporary_file_is_left(results: dict[str, Result], out: Path):
    assert not list(out.rglob(".part-*"))


def test_the_quarantine_is_listed_with_reasons(results: dict[str, Result], out: Path):
    text = (out / "check/check/cases.csv").read_text()
    rows = {line.split(",")[0]: line for line in text.splitlines()[1:]}
    assert {name for name, line in rows.items() if ",rejected," in line} == bad_names("check")
    assert all(CODES[name] in rows[name] for name in bad_names("check"))


def test_a_cohort_without_a_usable_case_is_refused(cohort: Path, tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    write_label(tmp_path / "labels/only.nii.gz")
    BAD_IMAGES["text"](tmp_path / "images/only.nii.gz")
    result = medseg(
        *("check", "phantom_ct", "--data", tmp_path, "--config", cohort / "tiny.yaml", "-o", tmp_path / "RUN")
    )
    assert result.exit_code == 3
    assert [line.split()[0] for line in result.stderr.splitlines()[-4::2]] == [
        "NII_NOT_NIFTI",
        "NO_USABLE_CASE",
    ]


def test_evaluate_names_a_prediction_on_another_grid(tmp_path: Path):
    reference, predicted = tmp_path / "reference", tmp_path / "predicted"
    reference.mkdir()
    predicted.mkdir()
    for case in ("good", "bad"):
        write_label(reference / f"{case}.nii.gz")
    write_label(predicted / "good.nii.gz")
    BAD_LABELS["label_on_another_grid"](predicted / "bad.nii.gz")
    result = medseg("evaluate", reference, predicted, "-o", tmp_path / "OUT", "--json")
    assert result.exit_code == 3 and "GRID_MISMATCH bad: " in result.stderr
    assert document(result)["metrics"]["mean"]["dice"] == 1
