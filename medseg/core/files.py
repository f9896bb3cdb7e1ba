"""Files that are either whole or absent, readable by their owner only.

Everything is written to a hidden temporary name in the same folder, flushed to the disk and renamed:
a process killed at any moment leaves the old content or the new, never a part.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.core.errors import DataError

TEMPORARY = ".part-"  # prefix of names that a kill may leave behind; `sweep` removes them
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
LEFTOVER = re.compile(re.escape(TEMPORARY) + r"([0-9a-f]{6})-(\d+)-")


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, mode 0700, and return it."""
    for folder in [*reversed(path.parents), path]:
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` if the block ends well, and vanishes if not.

    The temporary name keeps the suffixes of `path`, since writers choose the format by it.
    """
    make_folder(path.parent)
    temporary = path.parent / f"{TEMPORARY}{HOST}-{os.getpid()}-{secrets.token_hex(4)}-{path.name}"
    try:
        yield temporary
        temporary.chmod(0o700 if temporary.is_dir() else 0o600)
        for written in [temporary, *temporary.rglob("*")]:
            _flush(written)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically, mode 0600."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, mode 0600."""
    write_bytes(path, text.encode())


def to_json(value: Any, *, compact: bool = False) -> str:
    """Return key-ordered JSON; NaN is refused, since undefined is null in our files.

    Args:
        value: Plain data.
        compact: One line: for long lists of numbers that nobody reads (7 times faster to write).
    """
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, **layout) + "\n"


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """Write `to_json(value)` atomically."""
    write_text(path, to_json(value, compact=compact))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.name} is missing", code="FILE_MISSING") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} is not valid JSON ({error})", code="JSON_INVALID") from error


def read_if_whole(path: Path) -> dict[str, Any]:
    """Read a JSON object that can be made again: {} where it is missing or damaged."""
    try:
        tree = read_json(path)
    except DataError:
        return {}
    return tree if isinstance(tree, dict) else {}


FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for one (OWASP, CSV injection)


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] | None = None) -> None:
    """Write dict rows as CSV atomically; None becomes an empty cell, and no cell is a formula.

    A text that a spreadsheet would run gets a `'` in front.

    Args:
        path: The file.
        rows: With `columns`, written as they come: there may be more than fit in memory.
        columns: None: all keys, in order of appearance.
    """
    if columns is None:
        rows = list(rows)
        columns = dict.fromkeys(key for row in rows for key in row)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [_escape(name) for name in columns], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({_escape(key): _escape(value) for key, value in row.items()})


def _escape(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of(value: Any) -> str:
    """Return the hex SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sweep(folder: Path, *, below: bool = False) -> None:
    """Remove what killed processes of this host left in `folder`; what a live one is writing stays.

    Args:
        folder: Where to look.
        below: Whether to look in its subfolders too.
    """
    pattern = f"{TEMPORARY}*"
    for leftover in list(folder.rglob(pattern) if below else folder.glob(pattern)):
        match = LEFTOVER.match(leftover.name)
        if match is None or match.group(1) != HOST or is_alive(int(match.group(2))):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process of this host runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True  # not Linux
    return state != "Z"  # a zombie: in a container nobody may ever collect it


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
