"""Which process works on a run, and whether it still does."""

import subprocess
import sys

import pytest

from medseg.tracking import process

TAG = "from medseg.tracking.process import name_process as n; print(n())"


def test_this_process_is_not_gone():
    assert process.name_process().count(".") == 2 and not process.is_gone(process.name_process())


def test_a_process_that_ended_is_gone():
    tag = subprocess.run([sys.executable, "-c", TAG], capture_output=True, text=True, check=True).stdout
    assert process.is_gone(tag.strip())


def test_another_process_with_the_same_number_is_not_the_one_that_ended():
    machine, pid, started = process.name_process().split(".")
    assert process.is_gone(f"{machine}.{pid}.{int(started) + 1}")


@pytest.mark.parametrize("tag", ["", "no tag", "0123456789ab.1.5", "0123456789ab.x.5"])
def test_what_cannot_be_told_counts_as_alive(tag: str):
    assert not process.is_gone(tag)


def test_without_proc_there_is_no_tag(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "Path", lambda *parts: NoFile())
    assert process.name_process() == "" and not process.is_gone("a.1.2")


class NoFile:
    def read_text(self, **options: str) -> str:
        raise FileNotFoundError
