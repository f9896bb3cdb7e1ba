"""What MLflow gets of a RUN: one run for the folder, one below it per fold, and where each thing goes.

parent  settings, data, scores of whole cases, table, overlays, plan, card, versions
fold    losses, learning rate and validation scores by epoch, a held-out case as it is learnt, its data
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np

from medseg import __version__
from medseg.config import Config
from medseg.core.files import read_if_whole, sha256_of, write_bytes, write_json
from medseg.core.interrupt import as_interrupt
from medseg.core.volume import Volume
from medseg.inference.model import hash_model
from medseg.inference.restore import restore_image
from medseg.io import read_labels
from medseg.metrics import CaseMetrics, rows
from medseg.tracking.overlay import draw_overlay, pick_cases
from medseg.tracking.store import Tracker, find_run, start_run
from medseg.workflows.figures import draw_figures
from medseg.workflows.model_folder import write_model
from medseg.workflows.report import Report
from medseg.workflows.review import NAME as REVIEW
from medseg.workflows.run_folder import RunFolder

UNTRACKED: Any = {"summary": True, "licence": True, "expected": True, "split": {"test_ids"}}
MODEL = "medseg.model_sha256"  # the tag by which runs that use a model find the run that made it
MISTAKEN = ("n_missed", "n_spurious")
ON_CARD = ("dice", "iou", "hd95_mm", "nsd", "volume_error_ml")  # what evaluation/metrics.json says more of
KNOWN = "tracking.json"  # RUN/: the runs of this folder, which the same command goes on with


@contextmanager
def closing(tracker: Tracker) -> Iterator[Tracker]:
    """End a run as what became of the block: FINISHED, FAILED, or KILLED by a signal."""
    status = "FAILED"
    try:
        with as_interrupt(signal.SIGTERM, signal.SIGHUP):
            yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)


def open_tracker(config: Config, folder: RunFolder, *, is_tracked: bool) -> Tracker:
    """Open this folder's MLflow run, the same one after a restart."""
    if not is_tracked:
        return Tracker.off()
    tracker = start_run(
        config.name,
        config.name,
        params=config.model_dump(mode="json", exclude=UNTRACKED),
        tags={"medseg.version": __version__, "medseg.kind": "run"},
        run_id=read_if_whole(folder.root / KNOWN).get("run_id"),
        record=folder.root / KNOWN,
    )
    if tracker.is_on:
        _remember(folder, run_id=tracker.run_id)
        splits = folder.load_splits()
        everyone = sorted(case for fold in splits.folds for case in fold)
        counts = {"cases": len(everyone), "folds": len(splits.folds), "test cases": len(splits.test)}
        split = sha256_of(asdict(splits))
        tracker.log_dataset(config.name, _hash_cases(folder, everyone), {**counts, "split": split}, "cohort")
    return tracker


def open_fold(parent: Tracker, config: Config, folder: RunFolder, fold: int) -> Tracker:
    """Open the run of a fold, below that of its folder; off where the parent is."""
    if not parent.is_on:
        return Tracker.off()
    told = read_if_whole(folder.root / KNOWN).get("folds")
    known = told if isinstance(told, dict) else {}
    tracker = start_run(
        config.name,
        f"fold {fold}",
        tags={"medseg.version": __version__, "medseg.kind": "fold", "medseg.fold": str(fold)},
        run_id=known.get(str(fold)),
        parent_id=parent.run_id,
        record=folder.root / KNOWN,
    )
    if tracker.is_on:
        _remember(folder, folds={**known, str(fold): tracker.run_id})
        splits = folder.load_splits()
        for side, ids in (("training", splits.training(fold)), ("validation", splits.validation(fold))):
            digest = _hash_cases(folder, ids)
            tracker.log_dataset(f"{config.name} {side}", digest, {"cases": len(ids)}, side)
    return tracker


def _remember(folder: RunFolder, **runs: Any) -> None:
    path = folder.root / KNOWN
    write_json(path, {**read_if_whole(path), **runs})


def _hash_cases(folder: RunFolder, ids: Sequence[str]) -> str:
    """Return a hash of what the store holds of cases: it tells whether two trainings saw the same data."""
    return sha256_of([folder.case(name).entry["key"] for name in ids])


def find_maker(model_sha256: str) -> tuple[str, str]:
    """Return id and experiment of the run that made a model, ("", "") where none did."""
    return find_run(kind="run", model_sha256=model_sha256)


def write_results(config: Config, folder: RunFolder, cases: Sequence[CaseMetrics], report: Report) -> None:
    """Write the model card, overlays and plots."""
    scores = [word_scores(key, row) for key, row in list_scores(report)]
    write_model(config, folder, {}, scores=scores)
    draw_overlays(config, folder, cases)
    draw_figures(config, folder, cases, report.extra)


def list_scores(report: Report) -> list[tuple[str, dict[str, Any]]]:
    """Return (label, its scores), regions last."""
    metrics = report.extra["metrics"]
    regions = metrics.get("regions", {}).values()
    return [*metrics["labels"].items(), *(("region", row) for row in regions)]


def track_results(folder: RunFolder, cases: Sequence[CaseMetrics], report: Report, tracker: Tracker) -> None:
    """Log what a finished run is worth, its pictures, its page and what it was made with."""
    if not tracker.is_on:
        return
    log_scores(
        tracker, report, "whole_cases"
    )  # sorts behind "train" and "val": charts over epochs come first
    tracker.log_metrics(
        {f"trust/{name}": value for name, value in _numbers(report.extra.get("trust", {})).items()}
    )
    tracker.log_table(rows(cases), "cases.json")
    tracker.set_tags({MODEL: hash_model(folder.model)[0]})
    for name in ("config.yaml", "plan.json", "MODEL_CARD.md"):
        tracker.log_artifact(folder.model / name)  # the model's copies name no case
    tracker.log_content(list_versions(), "environment.txt")
    tracker.log_artifact(folder.root / REVIEW)
    for path in sorted((folder.evaluation / "plots").iterdir()):
        tracker.log_artifact(path, "plots")
    for path in sorted((folder.evaluation / "overlays").glob("*.png")):
        tracker.log_artifact(path, "overlays")


def log_scores(tracker: Tracker, report: Report, group: str) -> None:
    """Log the means over cases, of all labels together and of each label and region."""
    rows = {"": report.extra["metrics"]["mean"]}
    rows |= {f"{row['name']}/": row for _, row in list_scores(report)}
    for name, row in rows.items():
        tracker.log_metrics({f"{group}/{name}{key}": value for key, value in _numbers(row).items()})


def word_scores(label: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the model card: what the mask is worth, with 95 % intervals over patients."""
    words: dict[str, Any] = {"label": label, **{key: row[key] for key in ("name", "n", *MISTAKEN)}}
    for metric in (name for name in ON_CARD if name in row):
        words[metric] = row[metric]
        if row[metric] is not None and (interval := row["ci95"][metric]):
            words[metric] = f"{row[metric]:.4g} [{interval[0]:.4g}, {interval[1]:.4g}]"
    return words


def list_versions() -> str:
    """Return what is installed, a line each, as pip takes it as constraints."""
    found = {
        (one.metadata["Name"] or "").lower(): one.version for one in metadata.distributions() if one.metadata
    }
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()) if name)


def _numbers(row: dict[str, Any]) -> dict[str, float | None]:
    return {name: value for name, value in row.items() if isinstance(value, (int, float)) or value is None}


def draw_overlays(config: Config, folder: RunFolder, cases: Sequence[CaseMetrics]) -> None:
    """Draw the worst, median and best case by mean Dice into RUN/evaluation/overlays."""
    for rank, name in pick_cases({case.case_id: mean_dice(case) for case in cases}).items():
        stored = folder.case(name)
        part = next(p for p in folder.root.glob("predictions/fold_*") if (p / f"{name}.json").exists())
        image = restore_image(np.asarray(stored.image[:]), stored.placement)
        reference = read_labels(stored.reference).array
        predicted = read_labels(folder.mask_of(part.name, name)).array
        volume = Volume(image, stored.placement.original)
        picture = draw_overlay(
            name, volume, reference, predicted, config.data.labels, ignore_label=config.data.ignore_label
        )
        write_bytes(folder.evaluation / "overlays" / f"{rank}.png", picture)


def mean_dice(case: CaseMetrics) -> float | None:
    """Return the mean Dice over the labels for which it is defined; None also where it was not measured."""
    found = [dice for label in case.labels.values() if (dice := label.values.get("dice")) is not None]
    return sum(found) / len(found) if found else None
