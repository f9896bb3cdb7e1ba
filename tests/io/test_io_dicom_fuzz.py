"""Damaged DICOM folders: 500 of them here, 5,000 in benchmarks/fuzz.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from medseg.core.errors import DataError
from tests.dicom_fuzz import check
from tests.dicom_mutations import MUTATIONS, mutate
from tests.dicom_seeds import series

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the benchmark says of 500 folders; by the clock it has more time than alone on a machine."""
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.json"
    command = [sys.executable, "benchmarks/fuzz.py", "--files", "500", "--wait", "60", "--json", str(path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    return json.loads(path.read_text())


@pytest.mark.slow
def test_every_damaged_folder_ends_in_a_result_or_an_error_of_the_contract(result: dict[str, Any]) -> None:
    assert [failure for row in result["rows"] for failure in row["failures"]] == []
    assert sum(row["folders"] for row in result["rows"]) == 500
    assert result["ok"]


@pytest.mark.slow
def test_the_damage_is_found_at_many_places_and_leaves_some_folders_readable(result: dict[str, Any]) -> None:
    ends = {end for row in result["rows"] for end in row["ends"]}
    assert {"read", "wrote", "DICOM_DAMAGED", "DICOM_TRUNCATED", "DICOM_HEADER", "DICOM_DECODE"} <= ends
    assert len(ends) > 15


@pytest.mark.parametrize("name", MUTATIONS)
def test_damage_depends_on_its_seed_alone(tmp_path: Path, name: str) -> None:
    series()(tmp_path)
    data = (tmp_path / "slice_000.dcm").read_bytes()
    harm = MUTATIONS[name][1]
    damaged = [harm(data, Random(seed)) for seed in (1, 1, 2)]
    assert damaged[0] == damaged[1] != damaged[2]


def test_most_damage_changes_a_file(tmp_path: Path) -> None:
    series()(tmp_path)
    data = (tmp_path / "slice_000.dcm").read_bytes()
    changed = sum(mutate(data, Random(seed))[0] != data for seed in range(100))
    assert changed > 90


@pytest.mark.parametrize(
    ("harm", "failure"),
    [
        ("os.abort()", "crash"),
        ("{}['no']", "exception"),
        ("bytes(5 << 30)", "memory"),
        ("print('Nobody', flush=True)", "printed"),
        ("max(iter(int, 1))", "hang"),
        ("time.sleep(60)", "hang"),
    ],
)
def test_a_folder_that_harms_its_reader_is_told_as_a_failure(harm: str, failure: str) -> None:
    program = (
        "import os, time; from tests import dicom_fuzz; "
        "seed = dicom_fuzz.Seed('none', {'a.dcm': bytes(200)}, 1, ('a.dcm',)); dicom_fuzz.SECONDS = 1.0; "
        f"dicom_fuzz.read_everything = lambda *task: [str({harm})]; "
        "print(*[end.failure for end in dicom_fuzz.fuzz([seed], 0, range(1), jobs=1, wait_s=3)])"
    )
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    assert said.split() == [failure]


def test_a_message_that_names_somebody_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="names somebody"):
        check(DataError("Nobody^At All is gone", code="DICOM_DAMAGED"))
