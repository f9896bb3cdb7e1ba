"""What MLflow gets of an `evaluate`: a run below the one that made the masks' model, where that is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from medseg import __version__
from medseg.core.files import sha256_of, sha256_of_file, to_json
from medseg.metrics import CaseMetrics, Scores, rows
from medseg.tracking.store import start_run
from medseg.workflows.pairs import Pairs
from medseg.workflows.report import Report
from medseg.workflows.sidecar import find_model
from medseg.workflows.tracked import MODEL, find_maker, log_scores, mean_dice

MAX_ROWS = 10_000  # of the table, which MLflow's page reads whole
ALONE = "evaluate"  # the experiment of masks whose model no run made


def track_evaluation(
    report: Report, scores: Scores, pairs: Pairs, out: Path, plots: Iterable[Path] = ()
) -> None:
    """Log scores with their definitions, a row per case and label, and the figures.

    Args:
        report: Its "metrics"; gets "mlflow".
        scores: Of the cases.
        pairs: Id -> (reference, predicted).
        out: Where `evaluate` wrote cases.csv, which goes along where the table does not hold all.
        plots: Files to go along.
    """
    model = find_model({name: predicted for name, (_, predicted) in pairs.items()})
    parent, experiment = find_maker(model) if model else ("", "")
    metrics = report.extra["metrics"]
    tags = {"medseg.version": __version__, "medseg.kind": "evaluate", **({MODEL: model} if model else {})}
    tracker = start_run(
        experiment or ALONE,
        "evaluate",
        params={"metrics": metrics["definitions"]["options"]},
        tags=tags,
        columns=("evaluate/dice",),
        parent_id=parent,
    )
    if tracker.is_on:
        digest = sha256_of([sha256_of_file(reference) for _, (reference, _) in sorted(pairs.items())])
        tracker.log_dataset("references", digest, {"cases": len(pairs)}, "evaluation")
    log_scores(tracker, report, "evaluate")
    shown = pick_worst(scores, MAX_ROWS)
    tracker.log_table(rows(shown), "cases.json")
    if len(shown) < len(scores):
        tracker.set_tags(
            {"medseg.table": f"the worst {len(shown)} of {len(scores)} cases; cases.csv has all"}
        )
        tracker.log_artifact(out / "cases.csv")
    tracker.log_content(to_json(metrics), "metrics.json")
    for path in plots:
        tracker.log_artifact(path, "plots")
    tracker.end()
    report.mlflow = tracker.link


def pick_worst(scores: Scores, max_rows: int) -> Sequence[CaseMetrics]:
    """Return all cases where their rows are no more than `max_rows`, else the worst by mean Dice that are."""
    count = max_rows // max(1, len(scores.keys))
    if len(scores) <= count:
        return scores
    worth = [mean_dice(case) for case in scores]
    ranked = sorted(range(len(worth)), key=lambda at: (worth[at] is None, worth[at]))
    return [scores[at] for at in ranked[:count]]
