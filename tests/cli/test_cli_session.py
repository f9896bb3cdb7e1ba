"""Errors as two lines, JSON on stdout, and the contract's exit codes."""

import errno
import json
import subprocess
import sys

import pytest
import typer

from medseg.cli.session import make_progress, session, summarise
from medseg.core.errors import CheckpointError, ConfigError, DataError, MedsegError, ResourceError
from medseg.workflows.report import CaseResult, Report
from tests.tiny import medseg


def finish(error: BaseException | None = None, **options) -> int:
    with pytest.raises(typer.Exit) as exit_, session("infer", **options) as report:
        report.add(CaseResult("good", "done", outputs=["good.nii.gz"]))
        if error:
            raise error
    return int(exit_.value.exit_code)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (MedsegError("x"), 1),
        (ConfigError("x"), 2),
        (CheckpointError("x"), 2),
        (DataError("x"), 3),
        (ResourceError("x"), 4),
        (OSError(errno.ENOSPC, "No space left on device"), 4),
        (MemoryError(), 4),
        (PermissionError(errno.EACCES, "Permission denied"), 4),
        (OSError(errno.EROFS, "Read-only file system"), 4),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), 2),
    ],
)
def test_each_kind_of_end_has_its_exit_code(error: BaseException | None, code: int):
    assert finish(error) == code


def test_an_error_is_two_lines_on_stderr(capsys: pytest.CaptureFixture[str]):
    finish(DataError("3 slices are missing", hint="export the series again", code="GAP"), subject="scan")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "GAP scan: 3 slices are missing\n  hint: export the series again\n"


def test_of_many_cases_with_one_code_the_first_are_named_and_the_rest_counted(
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(typer.Exit), session("evaluate") as report:
        for number in range(23):
            report.add(CaseResult(f"c{number:02}", "rejected", "GAP", "a slice is missing"))
        report.add(CaseResult("other", "rejected", "NII_CRC", "damaged"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[19:] == [
        "GAP c19: a slice is missing",
        "NII_CRC other: damaged",
        "GAP: and 3 more; --json lists all",
    ]


def test_a_full_disk_says_so(capsys: pytest.CaptureFixture[str]):
    finish(OSError(errno.ENOSPC, "No space left on device"), as_json=True)
    captured = capsys.readouterr()
    assert captured.err.startswith("DISK_FULL") and json.loads(captured.out)["exit_code"] == 4


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), session("infer"):
        raise ZeroDivisionError
    with pytest.raises(OSError, match="Bad file descriptor"), session("infer"):
        raise OSError(errno.EBADF, "Bad file descriptor")
    with pytest.raises(RuntimeError), session("infer"):
        raise RuntimeError


@pytest.mark.parametrize("error", [None, ConfigError("x"), DataError("x")])
def test_with_json_stdout_is_one_document_whatever_happens(
    error: MedsegError | None, capsys: pytest.CaptureFixture[str]
):
    code = finish(error, as_json=True)
    tree = json.loads(capsys.readouterr().out)
    assert (tree["exit_code"], tree["command"], tree["cases"][0]["id"]) == (code, "infer", "good")


def test_a_bad_case_makes_the_exit_code_3(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(typer.Exit) as exit_, session("check") as report:
        report.add(CaseResult("a", "done", warnings=[("LABEL_EMPTY", "the label holds background only")]))
        report.add(CaseResult.of_error("b", DataError("torn", hint="copy it again", code="NII_TRUNCATED")))
    assert exit_.value.exit_code == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "NII_TRUNCATED b: torn",
        "  hint: copy it again",
        "warning LABEL_EMPTY a: the label holds background only",
    ]


def test_quiet_keeps_errors_and_drops_warnings(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(typer.Exit), session("check", quiet=True) as report:
        report.add(CaseResult("a", "done", warnings=[("LABEL_EMPTY", "empty")]))
        report.add(CaseResult.of_error("b", DataError("torn", code="NII_TRUNCATED")))
    assert capsys.readouterr().err == "NII_TRUNCATED b: torn\n"


def test_the_report_counts_what_happened():
    report = Report("infer", cases=[CaseResult("b", "failed", "X"), CaseResult("a", "skipped")])
    tree = report.to_json()
    assert [case["id"] for case in tree["cases"]] == ["a", "b"] and tree["exit_code"] == 3
    assert {key: tree["summary"][key] for key in ("done", "skipped", "rejected", "failed")} == {
        "done": 0,
        "skipped": 1,
        "rejected": 0,
        "failed": 1,
    }
    assert "1 skipped, 1 failed" in summarise(report) and "nothing to do" in summarise(Report("infer"))


def test_progress_is_plain_lines_away_from_a_terminal(capsys: pytest.CaptureFixture[str]):
    progress = make_progress(quiet=False)
    with progress.track("infer", 3) as advance:
        for name in "abc":
            advance(name)
    progress.say("done")
    assert capsys.readouterr().err.splitlines() == ["infer 1/3 a", "infer 3/3 c", "done"]


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with make_progress(quiet=False).track("infer", 2) as advance:
        advance("a")
        advance("b")
    assert "2/2" in capsys.readouterr().err


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]):
    progress = make_progress(quiet=True)
    with progress.track("infer", 1) as advance:
        advance("a")
    progress.say("done")
    assert capsys.readouterr().err == ""


def test_wrong_call_with_json_prints_one_document(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "medseg", "convert", "--json", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit_code"], document["error"]["code"]) == (2, 2, "USAGE")


def test_failed_command_says_why_in_its_document(tmp_path):
    done = medseg("convert", tmp_path / "missing", "-o", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["error"]["code"] == "INPUT_MISSING"
