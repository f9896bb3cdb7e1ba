"""run: check -> plan -> preprocess -> train -> predict -> evaluate, reviewed in MLflow.

Every step skips what is done, so the same command again finishes a run that was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.config import Config
from medseg.core.errors import ConfigError
from medseg.inference.model import load_model
from medseg.inference.network import choose_device
from medseg.inference.segment import Segmenter
from medseg.metrics import CaseMetrics
from medseg.metrics.chosen import choose_metrics
from medseg.train.distributed import is_main_process, process_group
from medseg.workflows.evaluate import Comparison, evaluate
from medseg.workflows.locate import settle_locator
from medseg.workflows.pairs import Cohort
from medseg.workflows.parallel import Workers
from medseg.workflows.postprocess_choice import settle_infer
from medseg.workflows.predict import predict_stored
from medseg.workflows.preprocess import preprocess
from medseg.workflows.progress import Progress
from medseg.workflows.promote import register_if_possible
from medseg.workflows.report import Report
from medseg.workflows.review import Sources, build
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.tracked import closing, open_fold, open_tracker, track_results, write_results
from medseg.workflows.train import select_all, train_fold
from medseg.workflows.trust import settle_trust

Pairs = dict[str, tuple[Path, Path]]


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
    report.mlflow = tracker.link
    with closing(tracker):
        with process_group(choose_device(config.device)):  # one for all folds
            for fold in folds:
                with closing(open_fold(tracker, config, folder, fold)) as its_own:
                    train_fold(
                        config,
                        folder,
                        fold,
                        progress=progress,
                        tracker=its_own,
                        report=report,
                        max_minutes=max_minutes,
                        init_from=init_from,
                        auto_shrink=auto_shrink,
                    )
        if not is_main_process():
            return
        settle_locator(config, folder, progress=progress)
        cases = score(config, folder, progress=progress, report=report)
        write_results(config, folder, cases, report)
        report.write(folder.root / "report.json")
        build(Sources(folder.root), folder.root, progress=progress)
        track_results(folder, cases, report, tracker)
        if tracker.is_on and not tracker.is_spooling:
            register_if_possible(folder)


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
    return {case.id: (case.reference, folder.mask_of(part, case.id)) for case in cases}


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
