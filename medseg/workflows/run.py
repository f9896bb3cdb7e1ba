"""run: check -> plan -> preprocess -> train -> predict -> evaluate, reviewed in MLflow.

Every step skips what is done, so the same command again finishes a run that was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg import __version__
from medseg.config import Config
from medseg.core.errors import ConfigError
from medseg.core.files import read_json, write_bytes, write_json
from medseg.core.volume import Volume
from medseg.inference.model import load_model
from medseg.inference.network import choose_device
from medseg.inference.restore import restore_image
from medseg.inference.segment import Segmenter
from medseg.io import read_labels
from medseg.metrics import CaseMetrics, rows
from medseg.metrics.chosen import choose_metrics
from medseg.tracking.overlay import draw_overlay, pick_cases
from medseg.tracking.store import Tracker, start_run
from medseg.train.distributed import is_main_process
from medseg.workflows.evaluate import Comparison, evaluate
from medseg.workflows.locate import settle_locator
from medseg.workflows.model_folder import write_model
from medseg.workflows.pairs import Cohort
from medseg.workflows.parallel import Workers
from medseg.workflows.postprocess_choice import settle_infer
from medseg.workflows.predict import predict_stored
from medseg.workflows.preprocess import preprocess
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.train import select_all, train_fold
from medseg.workflows.trust import settle_trust

Pairs = dict[str, tuple[Path, Path]]
UNTRACKED: Any = {"summary": True, "licence": True, "expected": True, "split": {"test_ids"}}


def run(
    config: Config,
    data: Path,
    folder: RunFolder,
    *,
    folds: Sequence[int],
    progress: Progress,
    report: Report,
    max_minutes: float | None = None,
    auto_shrink: bool = False,
    is_tracked: bool = True,
    key_file: Path,
    is_pseudonymous: bool = False,
) -> None:
    """Run the whole pipeline; results are in RUN, `report` and MLflow."""
    if not is_main_process():
        raise ConfigError("several processes would preprocess at once", hint="torchrun is for `medseg train`")
    select_all(config)
    with Workers(config.workers) as workers:
        preprocess(
            config,
            data,
            folder,
            progress=progress,
            report=report,
            workers=workers,
            key_file=key_file,
            is_pseudonymous=is_pseudonymous,
        )
    train_and_evaluate(
        config,
        folder,
        folds=folds,
        progress=progress,
        report=report,
        max_minutes=max_minutes,
        auto_shrink=auto_shrink,
        is_tracked=is_tracked,
    )


def train_and_evaluate(
    config: Config,
    folder: RunFolder,
    *,
    folds: Sequence[int],
    progress: Progress,
    report: Report,
    max_minutes: float | None = None,
    init_from: Path | None = None,
    auto_shrink: bool = False,
    is_tracked: bool = True,
) -> None:
    """Train folds of a preprocessed run, predict what each held out, and evaluate."""
    tracker = open_tracker(config, folder, is_tracked=is_tracked and is_main_process())
    report.mlflow = {"run_id": tracker.run_id, "url": tracker.url} if tracker.run_id else None
    status = "FAILED"
    try:
        for fold in folds:
            train_fold(
                config,
                folder,
                fold,
                progress=progress,
                tracker=tracker,
                report=report,
                max_minutes=max_minutes,
                init_from=init_from,
                auto_shrink=auto_shrink,
            )
        if not is_main_process():
            return
        settle_locator(config, folder, progress=progress)
        cases = score(config, folder, progress=progress, report=report)
        track_results(config, folder, cases, report, tracker)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)
    report.write(folder.root / "report.json")


def open_tracker(config: Config, folder: RunFolder, *, is_tracked: bool) -> Tracker:
    """Open this run's MLflow run, the same one after a restart."""
    if not is_tracked:
        return Tracker.off()
    path = folder.root / "tracking.json"
    known = read_json(path)["run_id"] if path.exists() else None
    tracker = start_run(
        config.name,
        config.name,
        params=config.model_dump(mode="json", exclude=UNTRACKED),
        tags={"medseg.version": __version__},
        run_id=known,
    )
    if tracker.run_id:
        write_json(path, {"run_id": tracker.run_id})
    return tracker


def score(config: Config, folder: RunFolder, *, progress: Progress, report: Report) -> list[CaseMetrics]:
    """Predict each fold's held-out cases with that fold's network, and evaluate them together.

    Every fold that was ever trained here counts, not only those of this command. A fixed test set is
    predicted by the ensemble of all of them, post-processed as the held-out cases advise, and evaluated on
    its own.
    """
    splits = folder.load_splits()
    device = choose_device(config.device)
    pairs: Pairs = {}
    for fold in folder.trained_folds:
        segmenter = Segmenter(load_model(folder.model, device, folds=[fold], trust_code=True), config.infer)
        pairs |= predict_part(segmenter, folder, splits.validation(fold), f"fold_{fold}", progress=progress)
    found = evaluate_pairs(config, folder, pairs, progress=progress, report=report)
    comparable = {case.case_id: pairs[case.case_id] for case in found}
    infer = settle_infer(config, folder, comparable, progress=progress, report=report)
    settle_trust(config, folder, found, progress=progress, report=report)
    if splits.test:
        segmenter = Segmenter(load_model(folder.model, device, trust_code=True), infer)
        pairs = predict_part(segmenter, folder, splits.test, "test", progress=progress)
        evaluate_pairs(
            config, folder, pairs, progress=progress, report=report, part="test", key="test_metrics"
        )
    return found


def predict_part(
    segmenter: Segmenter, folder: RunFolder, names: Sequence[str], part: str, *, progress: Progress
) -> Pairs:
    """Predict stored cases and return their (reference, predicted) files by id."""
    cases = [folder.case(name) for name in names]
    is_recorded = part != "test" and segmenter.model.data.ignore_label is None
    predict_stored(segmenter, folder, cases, part, progress=progress, is_recorded=is_recorded)
    return {case.id: (case.reference, predicted_file(folder, part, case.id)) for case in cases}


def evaluate_pairs(
    config: Config,
    folder: RunFolder,
    pairs: Pairs,
    *,
    progress: Progress,
    report: Report,
    part: str = "",
    key: str = "metrics",
) -> list[CaseMetrics]:
    """Evaluate into RUN/evaluation/PART and put the metrics into the report, which has the cases already."""
    inner = Report("evaluate")
    comparison = Comparison(
        config.data.labels,
        choose_metrics(options=config.metrics, nsd_tolerance_mm=config.nsd_tolerance_mm),
        {region.name: region.covers for region in config.data.regions},
        config.data.ignore_label,
    )
    cohort, out = Cohort(folder.patients()), folder.evaluation / part
    found = list(evaluate(pairs, comparison, out, progress=progress, report=inner, cohort=cohort))
    report.extra[key] = inner.extra["metrics"]
    bad = {case.id for case in inner.bad_cases}
    report.cases[:] = [case for case in report.cases if case.id not in bad] + inner.bad_cases
    return found


def predicted_file(folder: RunFolder, part: str, case_id: str) -> Path:
    """Return the mask of a predicted case, whatever its suffix."""
    out = folder.predictions(part)
    picture = out / f"{case_id}.png"
    return picture if picture.exists() else out / f"{case_id}.nii.gz"


def track_results(
    config: Config, folder: RunFolder, cases: Sequence[CaseMetrics], report: Report, tracker: Tracker
) -> None:
    """Write the model card and overlays, and log metrics, table, overlays, plan and card."""
    metrics = report.extra["metrics"]
    regions = list(metrics.get("regions", {}).values())
    scores = [*metrics["labels"].items(), *(("region", row) for row in regions)]
    write_model(config, folder, {}, scores=[{"label": key, **row} for key, row in scores])
    draw_overlays(config, folder, cases)
    # "whole_cases" sorts behind "train" and "val": the charts over epochs come first in MLflow.
    tracker.log_metrics({f"whole_cases/{name}": value for name, value in _numbers(metrics["mean"]).items()})
    for _, row in scores:
        numbers = _numbers(row).items()
        tracker.log_metrics({f"whole_cases/{row['name']}/{name}": value for name, value in numbers})
    tracker.log_metrics(
        {f"trust/{name}": value for name, value in _numbers(report.extra.get("trust", {})).items()}
    )
    tracker.log_table(rows(cases), "cases.json")
    for name in ("config.yaml", "plan.json", "MODEL_CARD.md"):
        tracker.log_artifact(folder.model / name)  # the model's copies name no case
    for path in sorted((folder.evaluation / "overlays").glob("*.png")):
        tracker.log_artifact(path, "overlays")


def _numbers(row: dict[str, Any]) -> dict[str, float | None]:
    return {name: value for name, value in row.items() if isinstance(value, (int, float)) or value is None}


def draw_overlays(config: Config, folder: RunFolder, cases: Sequence[CaseMetrics]) -> None:
    """Draw the worst, median and best case by mean Dice into RUN/evaluation/overlays."""
    for rank, name in pick_cases({case.case_id: mean_dice(case) for case in cases}).items():
        stored = folder.case(name)
        part = next(p for p in folder.root.glob("predictions/fold_*") if (p / f"{name}.json").exists())
        image = restore_image(np.asarray(stored.image[:]), stored.placement)
        reference = read_labels(stored.reference).array
        predicted = read_labels(predicted_file(folder, part.name, name)).array
        volume = Volume(image, stored.placement.original)
        picture = draw_overlay(
            name, volume, reference, predicted, config.data.labels, ignore_label=config.data.ignore_label
        )
        write_bytes(folder.evaluation / "overlays" / f"{rank}.png", picture)


def mean_dice(case: CaseMetrics) -> float | None:
    """Return the mean Dice over the labels for which it is defined."""
    found = [label.values["dice"] for label in case.labels.values()]
    defined = [value for value in found if value is not None]
    return sum(defined) / len(defined) if defined else None
