import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.core import lock
from medseg.core.errors import ResourceError
from medseg.core.lock import NAME, lock_folder

HOLD = """
import sys, time
from pathlib import Path
from medseg.core.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
NOBODY = 2**22 + 1  # above Linux's largest process id


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def write_holder(folder: Path, host: str, pid: int) -> None:
    (folder / NAME).write_text(json.dumps({"host": host, "pid": pid, "since_s": 0}))


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks."""

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_second_process_is_refused_with_host_and_pid_until_the_first_is_killed(tmp_path: Path):
    process = hold(tmp_path)
    try:
        with pytest.raises(ResourceError) as caught, lock_folder(tmp_path):
            pass
        assert caught.value.code == "RUN_LOCKED" and caught.value.exit_code == 4
        assert f"process {process.pid} on {socket.gethostname()}" in caught.value.message
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_the_lock_leaves_nothing_even_if_the_work_fails(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), lock_folder(tmp_path / "RUN"):
        raise ZeroDivisionError
    assert list((tmp_path / "RUN").iterdir()) == []


def test_what_a_killed_process_left_does_not_lock(tmp_path: Path):
    write_holder(tmp_path, "elsewhere", 1)
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["host"] == socket.gethostname()


def test_children_of_a_killed_process_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_holder(tmp_path, socket.gethostname(), NOBODY)
    child = os.open(tmp_path / NAME, os.O_RDWR)
    fcntl.flock(child, fcntl.LOCK_EX)
    waited = []
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: waited.append(os.close(child)))
    with lock_folder(tmp_path):
        assert len(waited) == 1


def test_children_that_do_not_end_are_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_holder(tmp_path, socket.gethostname(), NOBODY)
    child = os.open(tmp_path / NAME, os.O_RDWR)
    fcntl.flock(child, fcntl.LOCK_EX)
    monkeypatch.setattr(lock, "GRACE_S", -1.0)
    with pytest.raises(ResourceError), lock_folder(tmp_path):
        pass
    os.close(child)


def test_a_holder_without_a_name_yet_is_another_process(tmp_path: Path):
    (tmp_path / NAME).touch()
    other = os.open(tmp_path / NAME, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(ResourceError, match="another process is at work"), lock_folder(tmp_path):
        pass
    os.close(other)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_that_its_holder_removed_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
):
    path, real, calls = tmp_path / NAME, fcntl.flock, []

    def race(descriptor: int, how: int) -> None:
        real(descriptor, how)
        if not calls:
            path.unlink()
            if is_there:
                (tmp_path / "other").touch()
                (tmp_path / "other").rename(path)
        calls.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", race)
    with lock_folder(tmp_path):
        assert len(calls) == 2 and path.exists()


@pytest.mark.usefixtures("lockless")
@pytest.mark.parametrize(
    ("host", "pid"), [("elsewhere", 1), (socket.gethostname(), os.getpid())], ids=["elsewhere", "here"]
)
def test_without_locks_a_named_holder_refuses(tmp_path: Path, host: str, pid: int):
    write_holder(tmp_path, host, pid)
    with pytest.raises(ResourceError, match=f"process {pid} on {host}"), lock_folder(tmp_path):
        pass


@pytest.mark.usefixtures("lockless")
def test_without_locks_a_dead_process_of_this_host_is_taken_over_from(tmp_path: Path):
    write_holder(tmp_path, socket.gethostname(), NOBODY)
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_another_error_of_the_lock_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(descriptor: int, how: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="broken disk"), lock_folder(tmp_path):
        pass
