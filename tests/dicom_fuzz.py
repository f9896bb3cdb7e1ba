"""Damaged DICOM folders, read in forked processes with limits: each ends in a result or a medseg error.

What is no such end, a failure: another exception, a crash, more than `SECONDS` or `MEMORY_BYTES`, a word on
stdout or stderr, or a message that repeats what identifies the (invented) patient. Of one folder in
`WRITES_EVERY`, what is read is written too.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from medseg.core.errors import ConfigError, DataError, MedsegError
from medseg.io.dicom import Options, choose_scan, find_series, group_studies, read_scan, scan_id
from medseg.io.dicom.labels.label import list_labels, make_label, read_label
from medseg.io.dicom.scan import Index, Scan
from tests.dicom_files import ROOT
from tests.dicom_fuzz_outputs import deidentify_all, write_image
from tests.dicom_mutations import mutate
from tests.dicom_seeds import LABELS, Seed

SECONDS = 10.0
MEMORY_BYTES = 4 << 30
PRIVATE = (ROOT, "Nobody", "P-1", "19010203", "Phantom Works")
EXIT_CODES = {2, 3, 4}
WRITES_EVERY = 3


@dataclass(frozen=True)
class Outcome:
    """How one damaged folder ended.

    Args:
        number: Of the case; with the run's seed it makes the same damage again.
        seed, damage: What was damaged, and how.
        ends: "read", "wrote" or a code for every volume, label map and output.
        failure: "" or why the folder is one too many: "crash", "hang", "memory", "exception", "printed", ...
    """

    number: int
    seed: str
    damage: str
    ends: tuple[str, ...]
    failure: str
    detail: str
    seconds: float
    peak_mb: float


def damage_folder(seeds: list[Seed], run: int, number: int, folder: Path) -> tuple[str, str]:
    """Write case `number` of a run into a folder; return the name of its seed and of its damage."""
    rng = Random(f"{run}-{number}")
    seed = rng.choices(seeds, [seed.weight for seed in seeds])[0]
    everywhere = rng.random() < 0.25 and len(seed.targets) > 1
    chosen = seed.targets if everywhere else (rng.choice(seed.targets),)
    same = rng.getrandbits(64)
    done = ""
    for name, data in seed.files.items():
        if name in chosen:
            data, done = mutate(data, Random(same) if everywhere else rng)
        (folder / name).write_bytes(data)
    return seed.name, done + (", everywhere" if everywhere else "")


def choose_options(run: int, number: int) -> Options:
    """Return what the user of a case allows."""
    rng = Random(f"options {run}-{number}")
    tilt, resample, suv = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.1
    return Options(tilt, resample, rng.choice((None, 3.0)), suv)


def read_everything(folder: Path, options: Options, out: Path | None = None) -> Iterator[str]:
    """Read every volume and label map, and write what the commands make of them.

    Args:
        folder: Of DICOM files.
        options: What the user allows.
        out: An empty folder; None to write nothing.

    Yields:
        "read" or "wrote" or the code of the error, for each.
    """
    try:
        index = find_series(folder, options)
    except MedsegError as error:
        yield check(error)
        return
    scans = list(choose_all(index))
    for _, error in index.damaged:
        yield check(error)
    for scan in scans:
        if isinstance(scan, MedsegError):
            yield check(scan)
            continue
        assert scan_id(scan, b"key").startswith("dcm-")
        try:
            volume = read_scan(scan)
        except MedsegError as error:
            yield check(error)
            continue
        assert volume.array.shape[1:] == scan.geometry.shape
        assert np.isfinite(volume.array).all() and np.isfinite(scan.geometry.affine).all()
        yield "read"
        yield from read_labels(index, scan)
        if out:
            yield from name_ends(write_image(scan, volume, out))
    if out:
        yield from name_ends(deidentify_all(index, out / "clean"))


def name_ends(ends: Iterator[str | MedsegError]) -> Iterator[str]:
    return (check(end) if isinstance(end, MedsegError) else end for end in ends)


def choose_all(index: Index) -> Iterator[Scan | MedsegError]:
    """Choose as the commands do, without and with numbers."""
    for study in group_studies(index):
        try:
            yield choose_scan(study)
        except MedsegError as error:
            yield error
        for series in study:
            for volume in range(len(series.candidates) if len(study) > 1 else 0):
                try:
                    yield choose_scan(study, series=str(series.number), volume=volume + 1)
                except MedsegError as error:
                    yield error


def read_labels(index: Index, scan: Scan) -> Iterator[str]:
    for instance in list_labels(index):
        for rois in ({}, {"#1": 1}, {"*": 1}):
            try:
                labels = read_label(make_label(instance, scan, rois, LABELS))
            except MedsegError as error:
                yield check(error)
                continue
            assert labels.geometry.shape == scan.geometry.shape
            yield "read"


def check(error: MedsegError) -> str:
    """Return an error's code; it keeps the contract and names nobody."""
    assert isinstance(error, (DataError, ConfigError)) or error.exit_code in EXIT_CODES
    assert error.exit_code in EXIT_CODES
    assert error.code and error.code == error.code.upper() and error.message and error.hint is not None
    said = f"{error.message} {error.hint}"
    assert not any(word in said for word in PRIVATE), f"the message names somebody: {said}"
    return error.code


class _Child:
    """One case in a process of its own."""

    def __init__(self, seeds: list[Seed], run: int, number: int) -> None:
        self.number = number
        self.folder = Path(tempfile.mkdtemp(prefix="medseg-fuzz-"))
        source, out = self.folder / "in", self.folder / "out"
        source.mkdir()
        out.mkdir()
        self.seed, self.damage = damage_folder(seeds, run, number, source)
        self.started_s = time.monotonic()
        self.result, told = os.pipe()
        self.printed, said = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            to_write = None if number % WRITES_EVERY else out
            _work((source, choose_options(run, number), to_write), told, said)
        os.close(told)
        os.close(said)

    def finish(self, *, is_late: bool) -> Outcome:
        """Wait for the end, or bring it about; return how it went."""
        if is_late:
            os.killpg(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        seconds = time.monotonic() - self.started_s
        with contextlib.suppress(ProcessLookupError):  # a decoder that outlived its parent
            os.killpg(self.pid, signal.SIGKILL)
        told, printed = _drain(self.result), _drain(self.printed)
        shutil.rmtree(self.folder)
        found = json.loads(told) if told else {"ends": [], "failure": "crash", "detail": f"status {status}"}
        if is_late or os.WTERMSIG(status) == signal.SIGXCPU:
            found = {"ends": [], "failure": "hang", "detail": f"{seconds:.1f} s"}
        if printed and not found["failure"]:
            found |= {"failure": "printed", "detail": printed.decode(errors="replace")[:500]}
        return Outcome(
            self.number,
            self.seed,
            self.damage,
            tuple(found["ends"]),
            found["failure"],
            found["detail"],
            seconds,
            usage.ru_maxrss / 1024,
        )


def _drain(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as stream:
        return stream.read()


def _work(task: tuple[Path, Options, Path | None], told: int, said: int) -> None:
    """Read a folder, and write, within limits; tell how it ended, and end."""
    os.setsid()
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.close(said)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS), int(SECONDS) + 1))
    ends: list[str] = []
    failure = detail = ""
    try:
        ends.extend(read_everything(*task))
    finally:  # whatever it is, it is reported, and does not go up into the parent's code
        error = sys.exc_info()[1]
        if error is not None:
            failure = "memory" if isinstance(error, MemoryError) else "exception"
            detail = "".join(traceback.format_exception(error, limit=-5))[-2000:]
        os.write(told, json.dumps({"ends": ends, "failure": failure, "detail": detail}).encode())
        os._exit(0)


def fuzz(
    seeds: list[Seed], run: int, numbers: range, *, jobs: int, wait_s: float = SECONDS
) -> Iterator[Outcome]:
    """Read damaged folders, `jobs` at a time, and yield how each ended, in no order.

    Args:
        seeds: What is damaged.
        run: Seed of the damage.
        numbers: Which cases.
        jobs: Processes at a time.
        wait_s: Longest time by the clock; CPU time is at most `SECONDS` in any case.
    """
    waiting = iter(numbers)
    running: dict[int, _Child] = {}
    while True:
        while len(running) < jobs and (number := next(waiting, None)) is not None:
            child = _Child(seeds, run, number)
            running[child.result] = child
        if not running:
            return
        ready = select.select(list(running), [], [], 0.2)[0]
        late = [pipe for pipe, child in running.items() if time.monotonic() - child.started_s > wait_s]
        for pipe in {*ready, *late}:
            yield running.pop(pipe).finish(is_late=pipe not in ready)
