import csv
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.core import files
from medseg.core.errors import DataError
from medseg.core.files import (
    atomic_path,
    make_folder,
    read_json,
    sha256_of,
    sha256_of_file,
    sweep,
    to_json,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_readable_by_its_owner_only(tmp_path):
    write_text(tmp_path / "a.txt", "text")
    assert mode_of(tmp_path / "a.txt") == 0o600


def test_a_folder_and_its_parents_are_open_to_their_owner_only(tmp_path):
    folder = make_folder(tmp_path / "a" / "b")
    assert (mode_of(folder), mode_of(folder.parent)) == (0o700, 0o700)


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path):
    (tmp_path / "a").mkdir(mode=0o755)
    make_folder(tmp_path / "a")
    assert mode_of(tmp_path / "a") == 0o755


def test_text_is_stored_as_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "Größe µm")
    assert (tmp_path / "a.txt").read_bytes() == "Größe µm".encode()


def test_a_failed_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError
    assert path.read_bytes() == b"old"


def test_a_failed_write_leaves_nothing_else(tmp_path):
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_folder_leaves_nothing_either(tmp_path):
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "case") as temporary:
        make_folder(temporary / "deep")
        (temporary / "deep" / "a").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_writes_nothing_is_an_error_not_an_empty_file(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_whole_folder_appears_under_its_name(tmp_path):
    with atomic_path(tmp_path / "case") as temporary:
        make_folder(temporary)
        (temporary / "a").write_text("a")
        assert not (tmp_path / "case").exists()
    assert (tmp_path / "case" / "a").read_text() == "a"
    assert mode_of(tmp_path / "case") == 0o700


def test_the_temporary_name_keeps_the_suffixes_and_is_hidden(tmp_path):
    with atomic_path(tmp_path / "a.nii.gz") as temporary:
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"")


def test_content_reaches_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(
        files, "_flush", lambda path: flushed.append((path.name, (tmp_path / "case").exists()))
    )
    with atomic_path(tmp_path / "case") as temporary:
        make_folder(temporary)
        (temporary / "inside").write_text("a")
    assert ("inside", False) in flushed
    assert flushed[-1] == (tmp_path.name, True)  # the new name itself


def test_a_killed_process_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    code = (
        "import os, sys; from pathlib import Path; from medseg.core.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as t:\n"
        "    t.write_bytes(b'ne'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def leave(folder, pid, host=files.HOST, name="a.txt"):
    path = folder / f"{files.TEMPORARY}{host}-{pid}-0011aabb-{name}"
    path.write_text("part")
    return path


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_sweep_keeps_what_a_live_process_is_writing(tmp_path):
    part = leave(tmp_path, os.getpid())
    sweep(tmp_path)
    assert part.exists()


def test_sweep_keeps_what_another_host_is_writing(tmp_path, dead_pid):
    part = leave(tmp_path, dead_pid, host="0" * 6)
    sweep(tmp_path)
    assert part.exists()


def test_sweep_keeps_whole_files(tmp_path, dead_pid):
    leave(tmp_path, dead_pid)
    (tmp_path / "whole").write_text("a")
    (tmp_path / ".part-of-something").write_text("a")
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", ".part-of-something"}


@pytest.fixture
def zombie_pid():
    """A process that has ended, and that its parent has not collected."""
    with subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells zombies from the living, in /proc")
def test_sweep_removes_what_a_zombie_left(tmp_path, zombie_pid):
    part = leave(tmp_path, zombie_pid)
    sweep(tmp_path)
    assert not part.exists()


def test_without_proc_a_known_process_counts_as_alive(tmp_path, monkeypatch):
    def missing(path):
        raise FileNotFoundError

    part = leave(tmp_path, os.getpid())
    monkeypatch.setattr(Path, "read_text", missing)
    sweep(tmp_path)
    assert part.exists()


def test_sweep_removes_folders_too(tmp_path, dead_pid):
    folder = tmp_path / f"{files.TEMPORARY}{files.HOST}-{dead_pid}-0011aabb-case"
    folder.mkdir()
    (folder / "a").write_text("a")
    sweep(tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize(("below", "left"), [(False, 1), (True, 0)])
def test_sweep_looks_below_only_when_asked(tmp_path, dead_pid, below, left):
    leave(make_folder(tmp_path / "sub"), dead_pid)
    sweep(tmp_path, below=below)
    assert len(list((tmp_path / "sub").iterdir())) == left


def test_a_process_of_another_user_is_alive(monkeypatch, tmp_path):
    def refuse(pid, signal):
        raise PermissionError

    part = leave(tmp_path, 1)
    monkeypatch.setattr(os, "kill", refuse)
    sweep(tmp_path)
    assert part.exists()


def test_json_has_sorted_keys_and_plain_letters():
    assert to_json({"b": 1, "a": "ö"}) == '{\n  "a": "ö",\n  "b": 1\n}\n'


def test_compact_json_is_one_line_and_says_the_same():
    value = {"b": [1, 2], "a": None}
    assert to_json(value, compact=True) == '{"a":null,"b":[1,2]}\n'
    assert json.loads(to_json(value, compact=True)) == json.loads(to_json(value))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_undefined(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json([value])


def test_json_comes_back(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2.5, None, "ö"]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None, "ö"]}


@pytest.mark.parametrize(
    ("content", "code"), [(None, "FILE_MISSING"), (b'{"a":', "JSON_INVALID"), (b'"\xff"', "JSON_INVALID")]
)
def test_bad_json_has_a_code_and_names_no_path(tmp_path, content, code):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(tmp_path / "a.json")
    assert caught.value.code == code
    assert str(tmp_path) not in caught.value.message


def test_csv_columns_are_those_of_all_rows_in_order_of_appearance(tmp_path):
    write_csv(tmp_path / "a.csv", [{"id": "a", "dice": 0.5}, {"id": "b", "dice": None, "nsd": 1}])
    assert (tmp_path / "a.csv").read_text() == "id,dice,nsd\na,0.5,\nb,,1\n"


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_of_a_csv_is_a_formula(tmp_path, text):
    write_csv(tmp_path / "a.csv", [{text: text, "n": -1.5}])
    with (tmp_path / "a.csv").open(newline="") as stream:
        head, row = csv.reader(stream)
    plain = text.replace("\r", " ")  # a carriage return would end the row
    assert (head[0], row) == (f"'{plain}", [f"'{plain}", "-1.5"])


def test_csv_with_columns_is_written_row_by_row(tmp_path):
    write_csv(tmp_path / "a.csv", ({"id": at} for at in range(3)), ["id", "dice"])
    assert (tmp_path / "a.csv").read_text() == "id,dice\n0,\n1,\n2,\n"


def test_csv_without_rows_still_has_its_columns(tmp_path):
    write_csv(tmp_path / "a.csv", [], ["id", "dice"])
    assert (tmp_path / "a.csv").read_text() == "id,dice\n"


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_file(tmp_path / "a") == expected


def test_the_hash_of_a_value_ignores_the_order_of_keys():
    assert sha256_of({"a": 1, "b": 2}) == sha256_of({"b": 2, "a": 1})
    assert sha256_of([1, 2]) != sha256_of([2, 1])
