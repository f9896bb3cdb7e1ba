"""What a run could not send, kept on this machine until `medseg tracking sync` sends it.

    $MEDSEG_HOME/spool/ID.jsonl   records, one a line; the first says which run they are of
    $MEDSEG_HOME/spool/ID/        copies of the artifacts, as the records name them

ID is that of the run, or "local-..." where the store never heard of it. The file is locked while a process
may add to it; where another holds it, ID.1.jsonl is taken. A kill cuts the last line at most.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medseg.core.files import make_folder, write_bytes
from medseg.tracking import place

log = logging.getLogger(__name__)

LOCAL = "local-"  # how the ids begin that we gave
RUN_ID = re.compile(rf"({LOCAL})?[0-9a-f]{{32}}")
LIMIT_BYTES = 1 << 30  # of all spools together, about: each counts what is there when it opens
SMALL = ("tag", "status")  # kinds that are kept however full the spool is: how a run ended, above all
FLUSH_S = 1.0  # epochs shorter than this share a flush to the disk


@dataclass(frozen=True)
class Wanted:
    """A run as it is to be in the store, whether or not it is there yet."""

    id: str  # the store's, or ours
    experiment: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    columns: Sequence[str]
    parent_id: str
    store: str  # which one was meant, without credentials
    started_ms: int
    record: str  # JSON file that names the id and is to learn the store's; "" for none


def make_id() -> str:
    """Return an id for a run that the store has not named yet."""
    return LOCAL + secrets.token_hex(16)


def is_run_id(text: object) -> bool:
    """Whether this is an id of MLflow's or of ours: it becomes part of a path and of a search."""
    return isinstance(text, str) and RUN_ID.fullmatch(text) is not None


def find_folder() -> Path:
    """Return the folder of all spools; it need not exist."""
    return place.find_home() / "spool"


class Spool:
    """The records of one run; nothing is on the disk before the first."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.path: Path | None = None
        self._file = -1
        self._bytes, self._is_full = 0, False
        self._flushed_s = 0.0

    def add(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Append a record.

        Raises:
            OSError: The disk is full, or the folder may not be written.
        """
        self._open()
        line = json.dumps({"kind": kind, "ms": now_ms(), **payload}, allow_nan=False) + "\n"
        if self._take(len(line)) or kind in SMALL:
            self._write(line.encode())

    def add_file(self, source: Path, name: str) -> None:
        """Keep a copy of a file as artifact `name`; the record follows once the copy is whole."""
        folder = self._open().with_suffix("")
        content = source.read_bytes()
        if self._take(len(content)):
            copy = f"{secrets.token_hex(8)}/{source.name}"  # MLflow takes an artifact's name from the file
            write_bytes(folder / copy, content)
            self.add("artifact", {"name": name, "copy": copy})

    def close(self) -> None:
        """Bring everything to the disk and let others have the file."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def _open(self) -> Path:
        if self._file < 0 or self.path is None:
            self.path, self._file = _open_free(self.wanted.id)
            self._bytes = _measure(find_folder())
            if _is_cut(self.path):
                self._write(b"\n")
            self._write(json.dumps({"kind": "run", "ms": now_ms(), **asdict(self.wanted)}).encode() + b"\n")
        return self.path

    def _take(self, size: int) -> bool:
        if self._bytes + size > LIMIT_BYTES:
            if not self._is_full:
                log.warning("SPOOL_FULL what is too large for the spool is no longer kept for MLflow")
            self._is_full = True
            return False
        self._bytes += size
        return True

    def _write(self, line: bytes) -> None:
        while line:  # a signal may cut a write short
            line = line[os.write(self._file, line) :]
        if time.monotonic() - self._flushed_s > FLUSH_S:
            os.fsync(self._file)
            self._flushed_s = time.monotonic()


class Recorder:
    """The part of `MlflowClient` that a tracker uses, with a spool behind it instead of a store."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool

    def move_to(self, run_id: str) -> None:
        """Take the id that the store knows; an older spool's end of the run no longer counts, it goes on."""
        if (find_folder() / f"{self.spool.wanted.id}.jsonl").exists():
            with suppress(OSError):
                self.spool.add("status", {"status": "RUNNING"})
                self.spool.close()
        self.spool = Spool(replace(self.spool.wanted, id=run_id))

    def log_batch(self, run_id: str, metrics: Iterable[Any]) -> None:
        points = [[m.key, m.value, m.timestamp, m.step] for m in metrics]
        self.spool.add("metrics", {"points": points})

    def set_tag(self, run_id: str, key: str, value: Any, synchronous: bool = True) -> None:
        self.spool.add("tag", {"key": key, "value": str(value)})

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        path = Path(local_path)
        self.spool.add_file(path, f"{artifact_path}/{path.name}" if artifact_path else path.name)

    def log_inputs(self, run_id: str, datasets: Iterable[Any]) -> None:
        for data in datasets:
            self.spool.add("input", data.to_dictionary())

    def set_terminated(self, run_id: str, status: str) -> None:
        self.spool.add("status", {"status": status})
        self.spool.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Lend what MLflow itself builds from the calls above: the files and the tag of a picture."""
        if name not in {"log_image", "_log_artifact_helper"}:
            raise AttributeError(name)
        from mlflow.tracking import MlflowClient

        method: Callable[..., Any] = getattr(MlflowClient, name).__get__(self)
        return method


def list_spools() -> list[Path]:
    """Return the files of all spools, in the order in which they were begun: parents before children."""
    return sorted(find_folder().glob("*.jsonl"), key=_find_begin)


def read_spool(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the records of a spool in order, and how many lines a kill has cut."""
    records: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        with suppress(ValueError):
            records.append(json.loads(line))
    return records, len(lines) - len(records)


@contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Yield whether the spool is ours for the block: False where another process has it, or has sent it."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(file) and _is_at(file, path)
    finally:
        os.close(file)


def remove(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Remove a spool that we hold, and the copies of its records: a new session may have begun others."""
    folder = path.with_suffix("")
    path.unlink()
    for record in records:
        if record["kind"] == "artifact":
            shutil.rmtree((folder / record["copy"]).parent, ignore_errors=True)
    with suppress(OSError):  # not there, or not empty
        folder.rmdir()


def sweep() -> None:
    """Remove copies whose records are gone: a kill came between the two."""
    for folder in [entry for entry in find_folder().glob("*") if entry.is_dir()]:
        if not folder.with_name(f"{folder.name}.jsonl").exists():
            shutil.rmtree(folder, ignore_errors=True)


def now_ms() -> int:
    """Return the time as MLflow counts it."""
    return int(time.time() * 1000)


def _open_free(run_id: str) -> tuple[Path, int]:
    make_folder(find_folder())
    number = 0
    while True:
        path = find_folder() / f"{run_id}{f'.{number}' if number else ''}.jsonl"
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        is_ours = _lock(file)
        if is_ours and _is_at(file, path):
            return path, file
        os.close(file)
        number += not is_ours  # else a sync has removed it meanwhile: the same name again


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still what the path names."""
    try:
        return os.fstat(file).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _measure(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a sync removes what it sent
            size += path.stat().st_size
    return size


def _is_cut(path: Path) -> bool:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - 1, 0))
        return stream.read(1) not in (b"", b"\n")


def _find_begin(path: Path) -> tuple[int, str]:
    with suppress(ValueError, KeyError, FileNotFoundError), path.open("rb") as stream:
        return int(json.loads(stream.readline())["ms"]), path.name
    return 0, path.name
