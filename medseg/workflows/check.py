"""check: find the cases of a cohort, look at each once, quarantine the bad ones with their reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.config import Config
from medseg.core.errors import ConfigError, DataError
from medseg.core.files import make_folder, read_if_whole, sha256_of, write_csv, write_json
from medseg.data.cases import Case, pseudonymize, read_key
from medseg.data.checks import Record, check_case, hash_files, screen_cohort
from medseg.data.layouts import find_cohort
from medseg.data.settings import Data
from medseg.workflows.parallel import Workers
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.scans import name_modalities


@dataclass(frozen=True)
class Cohort:
    """The cases of a data folder with what the check found of each, in order of id."""

    layout: str
    cases: dict[str, Case]
    records: tuple[Record, ...]

    @property
    def usable(self) -> list[Record]:
        """Records of the cases that passed."""
        return [record for record in self.records if record.is_usable]


def check(
    config: Config,
    data: Path,
    run: RunFolder,
    *,
    progress: Progress,
    report: Report,
    workers: Workers,
    key_file: Path,
    is_pseudonymous: bool = False,
) -> Cohort:
    """Check every case below `data` and write RUN/check/{cases.csv,report.json}.

    Args:
        config: The task.
        data: Folder or table of a labelled cohort.
        run: Where to write.
        progress: Told after each case.
        report: Gets one result a case.
        workers: Who looks.
        key_file: The site's secret for pseudonyms, made on first use; ids of DICOM scans need it.
        is_pseudonymous: Whether other ids are pseudonyms too.

    Raises:
        ConfigError: No layout fits, or RUN lies among DICOM files.
        DataError: No case is usable.
    """
    layout, cases = find_cohort(data, config.data, partial(read_key, key_file))
    if layout == "dicom" and run.root.resolve().is_relative_to(data.resolve()):
        raise ConfigError(
            "the output folder lies among the DICOM files",
            hint="choose another with -o",
            code="OUT_HOLDS_INPUT",
        )
    if is_pseudonymous:
        cases = pseudonymize(cases, key_file)
    progress.say(f"{len(cases)} cases, layout {layout}")
    cache = make_folder(run.check / "records")
    look = partial(_recall_or_check, settings=config.data, seed=config.seed, cache=cache)
    found: list[Record] = []
    with progress.track("check", len(cases)) as advance:
        for _, record in workers.map(look, cases, stage="check", name=lambda case: case.id):
            found.append(record)
            advance(record.id)
    for path in cache.glob("*.json"):  # of cases that are gone, or that had another id
        if path.stem not in {case.id for case in cases}:
            path.unlink()
    cohort = Cohort(layout, {case.id: case for case in cases}, tuple(screen_cohort(found)))
    report.cases.extend(_to_result(record) for record in cohort.records)
    rows = [
        {**_to_row(record, config.data), "modality": name_modalities(cohort.cases[record.id])}
        for record in cohort.records
    ]
    write_csv(run.check / "cases.csv", rows)
    own = report if report.command == "check" else replace(report, command="check")
    own.write(run.check / "report.json")
    if not cohort.usable:
        raise DataError(
            f"none of {len(cases)} cases is usable",
            hint="the reasons are listed above",
            code="NO_USABLE_CASE",
        )
    return cohort


def _recall_or_check(case: Case, *, settings: Data, seed: int, cache: Path) -> Record:
    """Return the record of an earlier look at the same bytes with the same settings, or look."""
    known = [case.id, case.group, case.error and [case.error.code, case.error.message], case.warnings]
    key = sha256_of([__version__, hash_files(case), settings.model_dump(mode="json"), known, seed])
    path = cache / f"{case.id}.json"
    tree = read_if_whole(path)
    if tree.pop("key", None) == key:
        return Record(**{name: _freeze(value) for name, value in tree.items()})
    record = check_case(case, settings, seed)
    write_json(path, {"key": key, **record.to_json()}, compact=True)
    return record


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def _to_result(record: Record) -> CaseResult:
    if record.is_usable:
        return CaseResult(record.id, "done", warnings=record.warnings)
    return CaseResult(record.id, "rejected", record.code, record.message, record.hint or None)


def _to_row(record: Record, settings: Data) -> dict[str, Any]:
    volumes: list[float | None] = [
        round(count * record.voxel_volume_mm3 / 1000, 4) for count in record.voxels[1:]
    ]
    names = [f"{settings.labels[value]}_ml" for value in sorted(settings.labels)]
    return {
        "id": record.id,
        "patient": record.patient,
        "status": "usable" if record.is_usable else "rejected",
        "code": record.code or " ".join(code for code, _ in record.warnings),
        "message": record.message,
        "shape": _times(record.stored_shape),
        "spacing_mm": _times(record.spacing_mm),
        "orientation": record.orientation,
        **dict(zip(names, volumes or [None] * len(names))),
    }


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
