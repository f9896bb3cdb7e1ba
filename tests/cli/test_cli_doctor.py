"""doctor from the outside: rows, JSON, exit codes, and nothing that names this machine's user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.workflows.doctor import Finding
from tests.tiny import document, medseg

GOOD, MINOR = Finding("a", "1"), Finding("b", "2", "warn", "do this")
BAD = Finding("c", "3", "bad", "do that")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    rows = [GOOD, MINOR]
    monkeypatch.setattr("medseg.workflows.doctor.examine", lambda out: rows)
    return rows


def test_rows_come_with_verdict_and_hint(found: list[Finding]):
    result = medseg("doctor")
    assert result.exit_code == 0
    assert result.stdout == "ok   a: 1\nwarn b: 2\n     hint: do this\n"


def test_quiet_shows_what_is_not_well(found: list[Finding]):
    assert medseg("doctor", "-q").stdout == "warn b: 2\n     hint: do this\n"


def test_something_bad_ends_with_4(found: list[Finding]):
    found.append(BAD)
    result = medseg("doctor")
    assert result.exit_code == 4 and "MACHINE_UNFIT: not fit for medseg: c" in result.stderr


def test_json_is_one_document_with_all_findings(found: list[Finding]):
    found.append(BAD)
    result = medseg("doctor", "--json")
    tree = document(result)
    assert (result.exit_code, tree["exit_code"], tree["error"]["code"]) == (4, 4, "MACHINE_UNFIT")
    assert tree["findings"][2] == {"name": "c", "value": "3", "verdict": "bad", "hint": "do that"}


def test_this_machine_is_fit_and_stays_anonymous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    result = medseg("doctor", "--json", "-o", tmp_path / "runs")
    tree = document(result)
    names = {row["name"] for row in tree["findings"]}
    assert {"torch", "cpu", "memory", "disk of runs", "conv3d cpu bf16", "isal", "tracking"} <= names
    assert str(tmp_path) not in json.dumps(tree) and str(Path.home()) not in json.dumps(tree)
    assert list(tmp_path.iterdir()) == []
