"""review: one self-contained page of a run, of masks or of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg.core.errors import ConfigError, DataError
from medseg.metrics.paired import bootstrap_mean
from medseg.tracking.overlay import PAIRS
from medseg.tracking.review import (
    FLAGS,
    MAX_LABELS,
    PageWriter,
    cut_scene,
    escape_json,
    flag_cases,
    open_page,
    write_niivue,
)
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.review_masks import gather_evaluation, gather_masks
from medseg.workflows.review_run import gather_run
from medseg.workflows.review_sources import VOLUMES, Subject, are_pictures, find_tolerance

NAME = "review.html"
MAX_MB, MAX_CASES = 25.0, 200
KEPT_BYTES = 400_000  # for the script, the table and the words of 200 cases with a few structures
SCRIPT_BYTES = 100_000  # of these for script, style and what each block is wrapped in
MIN_CASE_BYTES = 20_000
NIIVUE_BYTES = 30_000_000
LIMITS = (
    "Not a medical device. For research; no decision on a patient may rest on this page.",
    "Scores hold for cases like these, read as their references were; other scanners or diseases may differ.",
    "Images have 256 grey levels, and are cropped or reduced where a case says so: measure on the scan.",
    "Flags point at cases worth a look; a case without one may be wrong all the same.",
)


@dataclass(frozen=True)
class Sources:
    """Where a page is made from.

    Args:
        root: A RUN, an OUT of `infer` or any folder of masks, or an OUT of `evaluate`.
        images: Scans, by case id; a RUN has its own.
        reference, predicted: Masks of an evaluation.
        key_file: The site's secret for pseudonyms; only read.
    """

    root: Path
    images: Path | None = None
    reference: Path | None = None
    predicted: Path | None = None
    key_file: Path = Path("pseudonym.key")


def build(
    sources: Sources,
    out: Path,
    *,
    max_mb: float = MAX_MB,
    max_cases: int = MAX_CASES,
    niivue: Sequence[str] = (),
    progress: Progress | None = None,
    report: Report | None = None,
) -> Path:
    """Write the page, one case in memory at a time, and return its path.

    Args:
        sources: What is shown.
        out: A name that ends in .html; else a folder, which gets review.html.
        max_mb: Of the page, in 10^6 bytes; every case gets the same share.
        max_cases: The worst so many are in the page, which says so.
        niivue: Ids of cases that get a page of their own, beside `out`.
        progress: A step a case.
        report: Gets a result for each case.

    Raises:
        ConfigError: REVIEW_BUDGET, CASE_UNKNOWN, INPUT_MISSING, SCORES_INVALID, or what `gather_run` raises.
        DataError: There is no case.
    """
    progress, report = progress or Progress(), report or Report("review")
    subject = gather(sources, report)
    if not subject.entries:
        raise DataError("there is no case to show", hint="give a run or a folder of masks", code="NO_CASES")
    if strangers := sorted(set(niivue) - {entry.id for entry in subject.entries}):
        raise ConfigError(
            f"there is no case `{strangers[0]}`", hint="the page lists the ids", code="CASE_UNKNOWN"
        )
    page = out if out.suffix.lower() in {".html", ".htm"} else out / NAME
    cases = flag_cases(subject.entries)
    shown = cases[:max_cases]
    if are_pictures(subject.metrics):  # also where none is shown
        for case in shown:
            _tell_in_pixels(case)
    words = len(escape_json(describe(subject, cases, shown)).encode())
    budget = share_bytes(max_mb, len(shown), max(KEPT_BYTES, SCRIPT_BYTES + words))
    with (
        open_page(page, f"Review: {subject.title}") as writer,
        progress.track("review", len(shown)) as advance,
    ):
        for case in shown:
            case["block"] = _add(writer, subject, case, budget, report)
            advance(case["id"])
        writer.finish(describe(subject, cases, shown))
    for name in niivue:
        _write_niivue(page, subject, name)
    report.extra["page"] = page.name
    return page


def gather(sources: Sources, report: Report) -> Subject:
    """Return what `sources` hold, whichever of the three kinds they are.

    Raises:
        ConfigError: INPUT_MISSING.
    """
    root = sources.root
    if not root.is_dir():
        raise ConfigError(
            "there is no such folder", hint="give a run or a folder of masks", code="INPUT_MISSING"
        )
    if (root / "config.yaml").exists():
        return gather_run(root, sources.images, sources.key_file)
    if (root / "cases.csv").exists():
        return gather_evaluation(root, sources.reference, sources.predicted, sources.images, sources.key_file)
    return gather_masks(root, sources.images, sources.key_file, report)


def share_bytes(max_mb: float, n_cases: int, kept: int = KEPT_BYTES) -> int:
    """Return how many bytes a case may take beside the `kept` ones of script, table and words.

    Raises:
        ConfigError: REVIEW_BUDGET: too few to show anything.
    """
    share = int((max_mb * 1e6 - kept) / n_cases)
    if share < MIN_CASE_BYTES:
        needed = math.ceil((MIN_CASE_BYTES * n_cases + kept) / 1e6)
        raise ConfigError(
            f"{max_mb:g} MB are too few for {n_cases} cases",
            hint=f"--max-mb {needed}, or fewer --cases",
            code="REVIEW_BUDGET",
        )
    return share


def _add(
    writer: PageWriter, subject: Subject, case: dict[str, Any], budget: int, report: Report
) -> int | None:
    """Write the images of a case, and return their number; None where there are none."""
    if case["error"]:
        return None
    try:
        block = cut_scene(subject.load(case["id"]), list(subject.labels), budget)
    except DataError as error:
        if error.code == "PREDICTION_MISSING":
            return None
        report.add(CaseResult.of_error(case["id"], error))
        case["reasons"].append(f"not shown: {error.code}: {error.message}")
        return None
    report.add(CaseResult(case["id"], "done"))
    case["unit"] = "mm"
    if block["picture"]:
        _tell_in_pixels(case)
    return writer.add_case(block)


def _tell_in_pixels(case: dict[str, Any]) -> None:
    """Tell the lengths of a picture in pixels, which have no size: what a table calls ml of them are none."""
    case["unit"], case["volumes"] = "px", {}
    case["rows"] = [{key: row[key] for key in row if key not in VOLUMES} for row in case["rows"]]


def _write_niivue(page: Path, subject: Subject, name: str) -> None:
    scene = subject.load(name)
    block = cut_scene(scene, list(subject.labels), NIIVUE_BYTES)
    write_niivue(page.with_name(f"{page.stem}_{name}.html"), name, block, scene.geometry)


def describe(
    subject: Subject, cases: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the index of the page."""
    made = datetime.now(UTC).date().isoformat()
    rest = [f"Only the worst {len(shown)} of {len(cases)} cases are in this page."] * (
        len(shown) < len(cases)
    )
    unseen = [f"Images show {MAX_LABELS} of {len(subject.labels)} structures; the others are hidden."] * (
        len(subject.labels) > MAX_LABELS
    )
    return {
        "title": subject.title,
        "verdict": word_verdict(subject, cases),
        "notes": [*subject.notes, *rest, *unseen],
        "facts": [*map(list, subject.facts), ["Page made on", made]],
        "limits": list(LIMITS),
        "labels": [{"value": value, "name": name} for value, name in subject.labels.items()],
        "tolerance": find_tolerance(subject.metrics),
        "ignores": subject.ignore_label is not None,
        "colours": [list(pair) for pair in PAIRS],
        "cases": list(shown),
        "total": len(cases),
    }


def word_verdict(subject: Subject, cases: Sequence[Mapping[str, Any]]) -> str:
    """Say in one line how good the masks are, and how many cases ought to be looked at.

    Mean and interval are those of metrics.json where it has a mean, and patients are resampled here where it
    has none. Cases of a test set are not part of it.
    """
    judged = [case for case in cases if case["score"] is not None and case["part"] != "test"]
    words = f"{len(cases)} cases"
    if judged:
        mean, low, high = _find_interval(subject, judged)
        interval = (
            "no interval of so few patients" if low is None else f"95 % interval {low:.3f} to {high:.3f}"
        )
        words = f"Mean Dice {mean:.3f} ({interval}) on {len(judged)} case{'s' * (len(judged) > 1)}"
    counts = {name: sum(name in case["flags"] for case in cases) for name in FLAGS}
    names = {"unlike": "out of distribution"}
    plural = {name: "s" * (name == "outlier" and count > 1) for name, count in counts.items()}
    told = [f"{count} {names.get(name, name)}{plural[name]}" for name, count in counts.items() if count]
    return f"{words}: {', '.join(told) or 'none flagged'}."


def _find_interval(
    subject: Subject, judged: Sequence[Mapping[str, Any]]
) -> tuple[float, float | None, float | None]:
    told = subject.metrics.get("mean", {})
    if told.get("dice") is not None:
        low, high = told.get("ci95", {}).get("dice") or (None, None)
        return told["dice"], low, high
    ordered = sorted(judged, key=lambda case: str(case["id"]))
    patients = [subject.patients.get(case["id"], case["id"]) for case in ordered]
    found = bootstrap_mean([case["score"] for case in ordered], patients, seed=0)
    return found.mean, found.low, found.high
