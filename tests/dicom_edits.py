"""What a case is, and the small changes that cases are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from tests.dicom_files import AXIAL, Edit, Grid, Truth, write_series

Build = Callable[[Path], tuple[Truth, ...]]
Verdict = Literal["accept", "warn", "repair", "choose", "reject"]


REPAIRS = ("--allow-tilt", "--allow-resample-z", "--slice-thickness", "3")
"""No repair makes up for another fault."""


@dataclass(frozen=True)
class Case:
    """A folder and what must come of it.

    Args:
        build: Writes the folder and returns every volume that may come out of it.
        code: The error, or the warning; "A|B" where both say it well.
        flags: Options of `convert`; with verdict "repair" they are what makes it readable.
        says: Regular expressions that the message must match: the numbers.
        repaired: Warning after a repair.
        listed: How many volumes the message of a choice lists, where it is more than can be read.
    """

    name: str
    verdict: Verdict
    build: Build
    code: str = ""
    flags: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    repaired: str = ""
    listed: int = 0

    @property
    def codes(self) -> set[str]:
        return set(self.code.split("|")) if self.code else set()


def accept(name: str, build: Build, *flags: str) -> Case:
    return Case(name, "accept", build, flags=flags)


def warn(name: str, code: str, build: Build, *flags: str) -> Case:
    return Case(name, "warn", build, code, flags)


def reject(name: str, code: str, build: Build, *flags: str, says: tuple[str, ...] = ()) -> Case:
    return Case(name, "reject", build, code, flags, says)


def choose(name: str, build: Build, *, listed: int = 0) -> Case:
    return Case(name, "choose", build, "SERIES_AMBIGUOUS", listed=listed)


def one(grid: Grid = AXIAL, **plan: Any) -> Build:
    """Return a builder of one series; see `write_series`."""
    return lambda folder: (write_series(folder, grid, **plan),)


def several(*builds: Build) -> Build:
    """Return a builder of several series in one folder; their truths are all there."""
    return lambda folder: tuple(truth for build in builds for truth in build(folder))


def joined(*builds: Build, grid: Grid = AXIAL) -> Build:
    """Return a builder whose parts make one volume of the usual ramp on `grid`."""

    def make(folder: Path) -> tuple[Truth, ...]:
        for build in builds:
            build(folder)
        return (Truth(grid),)

    return make


def beside(build: Build, *more: Callable[[Path], object]) -> Build:
    """Return a builder that puts more into the folder, of which nothing is to come out."""

    def make(folder: Path) -> tuple[Truth, ...]:
        truths = build(folder)
        for write in more:
            write(folder)
        return truths

    return make


def put(**values: Any) -> Edit:
    """Set attributes on every slice."""

    def edit(dataset: Dataset, k: int) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return edit


def put_each(**values: Callable[[int], Any]) -> Edit:
    """Set attributes to a function of the slice's number."""

    def edit(dataset: Dataset, k: int) -> None:
        for name, value in values.items():
            setattr(dataset, name, value(k))

    return edit


def drop(*names: str) -> Edit:
    def edit(dataset: Dataset, k: int) -> None:
        for name in names:
            del dataset[name]

    return edit


def raw(name: str, value: bytes, vr: str = "") -> Edit:
    """Write bytes that no library would write under this name."""

    def edit(dataset: Dataset, k: int) -> None:
        tag = Tag(name)
        padded = value + b" " * (len(value) % 2)
        kind = vr or (dataset[tag].VR if tag in dataset else "LO")
        dataset[tag] = RawDataElement(tag, kind, len(padded), padded, 0, False, True)

    return edit


def only(k: int, *edits: Edit) -> Edit:
    """Change one slice alone."""

    def edit(dataset: Dataset, at: int) -> None:
        if at == k:
            for change in edits:
                change(dataset, at)

    return edit


def both(*edits: Edit) -> Edit:
    def edit(dataset: Dataset, k: int) -> None:
        for change in edits:
            change(dataset, k)

    return edit


def tilted(degrees: float, *, sideways: bool = False) -> Grid:
    """Return an axial grid whose slices are shifted along their columns (or rows) as a tilted gantry does."""
    shift = 3.0 * float(np.tan(np.deg2rad(degrees)))
    return Grid(step_mm=(shift, 0.0, 3.0) if sideways else (0.0, shift, 3.0))


def truncate(name: str, keep: float | int) -> Callable[[Path], None]:
    """Cut a file: to a share of its length, or by so many bytes where negative."""

    def cut(folder: Path) -> None:
        data = (folder / name).read_bytes()
        length = int(len(data) * keep) if isinstance(keep, float) else len(data) + keep
        (folder / name).write_bytes(data[:length])

    return cut


def append(name: str, data: bytes) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        with (folder / name).open("ab") as stream:
            stream.write(data)

    return add


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def place(name: str, data: bytes) -> Callable[[Path], None]:
    """Put a file of these bytes into the folder."""

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return write


def copy(name: str, to: str) -> Callable[[Path], None]:
    return lambda folder: place(to, (folder / name).read_bytes())(folder)
