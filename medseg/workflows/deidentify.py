"""deidentify: a folder of DICOM files in, the same without what tells whose they are out.

Files are read one by one and written under pseudonyms, series by series; whatever is no DICOM file, cannot be
parsed or may show a name among its pixels is not copied. Nothing that is stored or reported holds a header's
value or a source's path.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.core.errors import ConfigError, DataError, FormatError
from medseg.core.files import atomic_path, make_folder, read_if_whole, sha256_of_file, sweep, write_json
from medseg.data.cases import read_key
from medseg.io.dicom.deidentify.files import deidentify_file
from medseg.io.dicom.deidentify.profile import EDITION, Policy
from medseg.io.dicom.deidentify.pseudonyms import Pseudonyms, find_patient
from medseg.io.dicom.elements import quiet
from medseg.io.dicom.header import read_instance
from medseg.io.dicom.index import list_tree
from medseg.io.dicom.layout import check_layout
from medseg.io.dicom.scan import Instance
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report

RECORDS = "records"  # OUT/records/<id>.json: which source each file was made of, as a keyed digest
WARNINGS = (
    ("DEID_BURNED_IN", "{n} files may show the patient's name among their pixels"),
    ("DEID_TEXT", "{n} texts that would have stayed held an identifier and were replaced"),
)


@dataclass(frozen=True)
class Found:
    """What lies below the source.

    Args:
        series: Case id -> its files.
        damaged: (number of the file in sorted order, error).
        spoiled: Folder of a damaged file -> its error: it may belong to any series there.
        others: How many files are not DICOM.
    """

    series: Mapping[str, Sequence[Instance]]
    damaged: Sequence[tuple[int, DataError]]
    spoiled: Mapping[Path, DataError]
    others: int

    @property
    def files(self) -> int:
        """Files that will be looked at."""
        return sum(map(len, self.series.values()))


@dataclass
class Tally:
    """What became of the files of one series."""

    total: int
    errors: list[DataError] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    written: int = 0
    notes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def to_result(self, case_id: str, seconds: float) -> CaseResult:
        """Return the case of the report."""
        folders = sorted({str(Path(name).parent) for name in self.outputs})
        warnings = [(code, text.format(n=self.notes[code])) for code, text in WARNINGS if code in self.notes]
        result = CaseResult(case_id, "done" if self.written else "skipped")
        if self.errors:
            first = self.errors[0]
            result = CaseResult.of_error(case_id, first)
            number = f"{len(self.errors)} of {self.total} files"
            result.message = f"{number} cannot be written, so none of the series was: {first.message}"
        result.warnings, result.outputs, result.seconds = warnings, folders, seconds
        return result


def deidentify(
    source: Path, out: Path, policy: Policy, *, progress: Progress, report: Report, key_file: Path
) -> None:
    """Write OUT/<patient>/<study>/<series>/<instance>.dcm, all pseudonyms, and OUT/report.json.

    A series whose files were all written before, from the same bytes and under the same policy, is skipped.

    Args:
        source: Folder, or one file.
        out: A folder that neither holds the source nor lies in it.
        policy: What the user chose.
        progress: Told after each series.
        report: Gets one result a series, and one for each file that cannot be parsed.
        key_file: Of this site's secret, made on first use.

    Raises:
        ConfigError: OUT_HOLDS_INPUT, INPUT_MISSING, CONFIG_CHANGED.
        DataError: NO_CASES: no DICOM file.
    """
    refuse_overlap(source, out)
    names = Pseudonyms(read_key(key_file))
    found = find_files(source, names)
    make_folder(out)
    sweep(out, below=True)
    settle_policy(out, policy, names)
    tallies: list[Tally] = []
    for number, error in found.damaged:
        report.add(CaseResult.of_error(f"file-{number:06d}", error))
        report.cases[-1].hint = f"{error.hint}; `medseg inspect` shows the names of damaged files"
    with progress.track("deidentify", len(found.series)) as advance:
        for case_id, instances in found.series.items():
            started = time.perf_counter()
            spoiled = [found.spoiled[home] for i in instances if (home := i.path.parent) in found.spoiled]
            tally = deidentify_series(case_id, instances, out, policy, names)
            if spoiled or tally.errors:
                withdraw(case_id, tally, out)
                tally.errors = tally.errors or spoiled
            report.add(tally.to_result(case_id, time.perf_counter() - started))
            tallies.append(tally)
            advance(case_id)
    report.extra["files"] = count_files(found, tallies)
    report.write(out / "report.json")
    if found.others:
        progress.say(f"{found.others} files are not DICOM and were not copied")


def count_files(found: Found, tallies: Sequence[Tally]) -> dict[str, int]:
    """Return how many files were written, were there already (or are copies), were refused, are not DICOM."""
    written = sum(one.written for one in tallies)
    refused = sum(one.total for one in tallies if one.errors) + len(found.damaged)
    return {
        "written": written,
        "unchanged": sum(one.total - one.written for one in tallies if not one.errors),
        "refused": refused,
        "not_dicom": found.others,
    }


def refuse_overlap(source: Path, out: Path) -> None:
    """Refuse to write among the originals.

    Raises:
        ConfigError: INPUT_MISSING or OUT_HOLDS_INPUT.
    """
    if not source.exists():
        raise ConfigError("there is no such file or folder", hint="check the path", code="INPUT_MISSING")
    from_, to = source.resolve(), out.resolve()
    if from_ == to or to in from_.parents or from_ in to.parents:
        raise ConfigError(
            "the output folder holds the scans, or lies among them",
            hint="choose another with -o",
            code="OUT_HOLDS_INPUT",
        )


def find_files(source: Path, names: Pseudonyms) -> Found:
    """Look at the headers of all files.

    Raises:
        DataError: NO_CASES.
    """
    series: dict[str, list[Instance]] = defaultdict(list)
    damaged: list[tuple[int, DataError]] = []
    spoiled: dict[Path, DataError] = {}
    others = 0
    with quiet():
        for number, path in enumerate(list_tree([source]), start=1):
            try:
                found = read_instance(path)
            except DataError as error:
                damaged.append((number, error))
                spoiled[path.parent] = error
                continue
            if found is None:
                others += 1
            else:
                series[names.name_series(found[0])].append(found[0])
    if not series and not damaged:
        raise DataError("no DICOM file was found", hint="check the path", code="NO_CASES")
    return Found(dict(sorted(series.items())), damaged, spoiled, others)


def settle_policy(out: Path, policy: Policy, names: Pseudonyms) -> None:
    """Keep files made in different ways from lying in one folder.

    Raises:
        ConfigError: CONFIG_CHANGED.
    """
    path = out / RECORDS / "policy.json"
    tree = {
        "dates": policy.dates,
        "keep_device": policy.keep_device,
        "edition": EDITION,
        "key": names.digest("key", "")[:8],
    }
    old = read_if_whole(path)
    if changed := sorted(name for name in tree if old and old.get(name) != tree[name]):
        raise ConfigError(
            f"this folder was made with another setting of {', '.join(changed)}",
            hint="use another output folder, or the old settings",
            code="CONFIG_CHANGED",
        )
    write_json(path, tree)


def deidentify_series(
    case_id: str, instances: Sequence[Instance], out: Path, policy: Policy, names: Pseudonyms
) -> Tally:
    """Write the files of one series that are not there yet; a refused file leaves nothing behind."""
    record = out / RECORDS / f"{case_id}.json"
    before = read_if_whole(record)
    done: dict[str, dict[str, Any]] = {}
    tally = Tally(len(instances))
    for instance in instances:
        name = str(names.place(instance))
        digest = names.digest("source", sha256_of_file(instance.path))
        if name in done:
            if done[name]["source"] != digest:
                tally.errors.append(_second())
            continue
        old: dict[str, Any] = before.get(name, {})
        try:
            if old.get("source") != digest or not (out / name).exists() or not _may_stay(old, policy):
                old = {"source": digest, "notes": _write(instance, out / name, policy, names)}
                tally.written += 1
        except DataError as error:
            (out / name).unlink(missing_ok=True)
            tally.errors.append(error)
            continue
        done[name] = old
        tally.outputs.append(name)
        for code, count in old["notes"].items():
            tally.notes[code] += count
    write_json(record, done)
    return tally


def withdraw(case_id: str, tally: Tally, out: Path) -> None:
    """Remove what was written of a series: a slice fewer would pass as the whole scan."""
    (out / RECORDS / f"{case_id}.json").unlink(missing_ok=True)
    for name in tally.outputs:
        (out / name).unlink(missing_ok=True)
    for folder in {(out / name).parent for name in tally.outputs}:
        for empty in (folder, folder.parent, folder.parent.parent):
            if empty != out and empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()
    tally.outputs, tally.written = [], 0


def _may_stay(old: Mapping[str, Any], policy: Policy) -> bool:
    return policy.allow_burned_in or "DEID_BURNED_IN" not in old["notes"]


def _write(instance: Instance, target: Path, policy: Policy, names: Pseudonyms) -> dict[str, int]:
    """Write one file.

    Raises:
        DataError: Why it may not be copied.
    """
    if not all((instance.study, instance.series, instance.sop_class, instance.sop_instance)):
        raise FormatError(
            "a file does not say which study, series, instance or kind of object it is",
            hint="export it again",
            code="DICOM_HEADER",
        )
    size = instance.path.stat().st_size
    # Of an error that the series model has, only what concerns the pixels matters here, not where they lie.
    if error := check_layout(instance.pixels, size) if instance.pixels else instance.error:
        raise error
    with atomic_path(target) as temporary:
        return deidentify_file(instance.path, temporary, policy, names, find_patient(instance))


def _second() -> DataError:
    return DataError(
        "two different files have the same SOP instance UID",
        hint="keep the right one of them",
        code="DEID_DUPLICATE",
    )
