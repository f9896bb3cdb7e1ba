"""inspect: what a folder or file holds, a line a series, and what reading it would say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.data.cases import Key, make_id, read_key, require_path
from medseg.data.studies import mixed, name_series
from medseg.io import is_image, read_volume, stem
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.scans import list_scans

if TYPE_CHECKING:
    from medseg.io.dicom import Candidate, Options, Series

Warnings = Sequence[tuple[str, str]]
LABELS = {"RTSTRUCT", "SEG"}


@dataclass
class Entry:
    """A series, one of its volumes, or an image file.

    Args:
        number: What `--series` (of a volume: `--volume`) takes.
        shape, spacing_mm: (3,) of the volume that reading gives; None where there is none.
        is_fault: Whether it is an image that cannot be read as it is.
        label: What tells a volume apart in its series.
        structures: How many structures or segments it holds; None where it is no such object.
        names: Theirs. For the terminal only, as `place` is: people write them.
        place: Of a file, relative to what is looked at.
    """

    number: int
    name: str
    modality: str | None
    slices: int | None
    verdict: str
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    code: str | None = None
    message: str | None = None
    hint: str | None = None
    label: str = ""
    warnings: Warnings = ()
    volumes: Sequence[Entry] = ()
    study: int | None = None
    channels: int = 1
    structures: int | None = None
    names: Sequence[str] = ()
    place: str = ""
    is_fault: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the contract's shape of a series."""
        return {
            **self._common(),
            "series_id": self.name,
            "modality": self.modality,
            "study": self.study,
            "channels": self.channels,
            "structures": self.structures,
            "volumes": [{**one._common(), "label": one.label} for one in self.volumes],
        }

    def _common(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "shape": self.shape and list(self.shape),
            "spacing_mm": self.spacing_mm and list(self.spacing_mm),
            "slices": self.slices,
            "verdict": self.verdict,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "warnings": [{"code": code, "message": message} for code, message in self.warnings],
        }

    def set_grid(self, grid: Geometry) -> None:
        """Note the grid that reading gives."""
        self.shape, self.spacing_mm = grid.shape, grid.spacing_mm


@dataclass
class Findings:
    """All that lies below a path.

    Args:
        others: How many files are no images.
        damaged: Files that claim to be DICOM and cannot be read: name relative to the path, and why.
        warnings: About the folder as a whole.
    """

    entries: list[Entry] = field(default_factory=list)
    others: int = 0
    damaged: list[tuple[str, DataError]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)


def inspect(path: Path, *, report: Report, key_file: Path, options: Options | None = None) -> Findings:
    """Look at everything below a path and report it; series that cannot be read are the bad cases.

    Objects that are no images (structures, segmentations, reports) and localizers are listed with the
    verdict that converting them would get, but are no fault.

    Args:
        path: A folder or a file.
        report: Gets a result and the contract's entry a series.
        key_file: The site's secret for the ids of DICOM scans, made on first use.
        options: What may be repaired.

    Raises:
        ConfigError: INPUT_MISSING.
        DataError: NO_CASES.
    """
    require_path(path)
    found = Findings()
    if is_image(path):
        found.entries.append(inspect_file(path, 1))
    else:
        _look_below(path, found, partial(read_key, key_file), options)
    for entry in found.entries:
        report.add(_to_result(entry))
    for number, (_, error) in enumerate(found.damaged, start=1):
        report.add(CaseResult.of_error(f"damaged-{number}", error))
    report.extra |= {
        "series": [entry.to_json() for entry in found.entries],
        "others": found.others,
        "damaged": len(found.damaged),
        "warnings": [{"code": code, "message": message} for code, message in found.warnings],
    }
    return found


def _look_below(path: Path, found: Findings, key: Key, options: Options | None) -> None:
    from medseg.io.dicom import find_series, group_studies

    index = find_series(path, options)
    root = path if path.is_dir() else path.parent
    images = [other for other in index.others if is_image(other)]
    for number, study in enumerate(group_studies(index), start=1):
        found.entries += _inspect_study(study, key, number)
    found.entries.sort(key=lambda entry: entry.number)
    for number, image in enumerate(images, start=len(index.series) + 1):
        found.entries.append(inspect_file(image, number, str(image.relative_to(root))))
    found.others = len(index.others) - len(images)
    found.damaged = [(str(damaged.relative_to(root)), error) for damaged, error in index.damaged]
    if index.series and images:
        error = mixed(len(images))
        found.warnings.append((error.code, error.message))
    if not found.entries and not found.damaged:
        raise DataError(
            f"none of {found.others} files is an image", hint="see `medseg list formats`", code="NO_CASES"
        )


def _inspect_study(study: Sequence[Series], key: Key, number: int) -> Iterator[Entry]:
    """Yield an entry a series; localizers, and screenshots beside a scan, are no faults."""
    expected = list_scans(study)
    for series in study:
        entry = inspect_series(series, key)
        entry.study = number
        if series.is_image and series not in expected:
            entry.is_fault = False
        yield entry


def _to_result(entry: Entry) -> CaseResult:
    if entry.is_fault:
        return CaseResult(entry.name, "rejected", entry.code, entry.message, entry.hint)
    return CaseResult(entry.name, "done")


def inspect_file(path: Path, number: int, place: str = "") -> Entry:
    """Read an image of another format than DICOM to its end and say whether it is whole."""
    entry = Entry(number, make_id(stem(path)), None, None, "accept", place=place or path.name)
    try:
        volume = read_volume(path)
    except DataError as error:
        _refuse(entry, error, "reject")
        entry.is_fault = True
        return entry
    entry.set_grid(volume.geometry)
    entry.slices, entry.channels = volume.geometry.shape[2], len(volume.array)
    return entry


def inspect_series(series: Series, key: Key) -> Entry:
    """Say what a DICOM series holds, from its headers."""
    from medseg.io.dicom.tags import name_modality

    volumes = [_describe(candidate, n) for n, candidate in enumerate(series.candidates, start=1)]
    entry = volumes[0]
    if len(volumes) > 1:
        entry = Entry(0, "", None, sum(one.slices or 0 for one in volumes), "choose", volumes=volumes)
        entry.code = "SERIES_AMBIGUOUS"
        entry.message = f"the series holds {len(volumes)} volumes"
        entry.hint = f"choose one with --series {series.number} --volume N"
        entry.is_fault = all(one.is_fault for one in volumes)
    entry.number, entry.name = series.number, name_series(series.first, key())
    entry.modality = name_modality(series.first.modality)
    if not series.is_image:
        entry.slices, entry.is_fault = None, False
        if entry.modality in LABELS:
            _add_structures(entry, series)
    return entry


def _add_structures(entry: Entry, series: Series) -> None:
    """Note what labels the series holds, or that they cannot be read."""
    from medseg.io.dicom.labels.derived import list_structures

    try:
        named = [name for instance in series.instances for _, name in list_structures(instance.path)]
    except DataError as error:
        _refuse(entry, error, "reject")
        entry.is_fault = True
        return
    entry.structures, entry.names = len(named), named


def _describe(candidate: Candidate, number: int) -> Entry:
    """Return the entry of one volume."""
    entry = Entry(number, "", None, len(candidate.frames), candidate.verdict)
    if candidate.error is not None:
        _refuse(entry, candidate.error, candidate.verdict)
        entry.is_fault = True
    if candidate.scan is not None:
        entry.set_grid(candidate.scan.geometry)
        entry.label, entry.warnings = candidate.scan.label, candidate.scan.warnings
        entry.code = entry.warnings[0][0] if entry.warnings else None
    return entry


def _refuse(entry: Entry, error: DataError, verdict: str) -> None:
    entry.verdict, entry.code, entry.message, entry.hint = verdict, error.code, error.message, error.hint
