"""What MLflow gets of an `infer`: a run below the one that made the model, with a row per case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.core.files import read_if_whole
from medseg.inference.trained import TrainedModel
from medseg.tracking.store import start_run
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.tracked import MODEL, find_maker

COLUMNS = {  # of a structure: the sidecar's key -> the column's title
    "dice": "predicted dice",
    "dice_low": "dice low",
    "dice_high": "dice high",
    "volume_ml": "predicted ml",
    "volume_ml_low": "ml low",
    "volume_ml_high": "ml high",
    "entropy": "entropy",
    "disagreement": "disagreement",
}


def track_infer(report: Report, model: TrainedModel, out: Path) -> None:
    """Log counts, seconds, and per case status, volumes and what trust says."""
    tracker = start_run(
        model.name,
        "infer",
        params={"infer": model.infer.model_dump(mode="json")},
        tags={"medseg.version": __version__, "medseg.kind": "infer", MODEL: model.sha256},
        parent_id=find_maker(model.sha256)[0],
    )
    rows = [describe_case(case, out) for case in report.cases]
    counts = Counter(case.status for case in report.cases)
    tracker.log_metrics({f"infer/{status}": float(count) for status, count in counts.items()})
    tracker.log_metrics({"infer/seconds": report.summary()["seconds"]})
    if judged := [row["look"] for row in rows if "look" in row]:  # without trust nothing was judged
        tracker.log_metrics({"infer/look": float(judged.count("yes"))})
    tracker.log_table(rows, "cases.json")
    tracker.end("FINISHED")
    report.mlflow = tracker.link


def describe_case(case: CaseResult, out: Path) -> dict[str, Any]:
    """Return a row: what became of the case, whether to look at it and why, its volumes, and all of trust."""
    sidecar = read_if_whole(out / f"{case.id}.json")
    volumes = {f"{label['name']} ml": label["volume_ml"] for label in sidecar.get("labels", {}).values()}
    row: dict[str, Any] = {"id": case.id, "status": case.status, "code": case.code}
    if case.trust:
        row |= {"look": "yes" if case.trust["look"] else "no", "why": "; ".join(case.trust["reasons"])}
    return {**row, **volumes, **(describe_trust(case.trust) if case.trust else {})}


def describe_trust(trust: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns: how unlike the training cases, and what is predicted of each structure."""
    columns = {f"outlier {name}": trust["outlier"][name] for name in ("distance", "p")}
    for structure in trust["structures"].values():
        columns |= {f"{structure['name']} {title}": structure[key] for key, title in COLUMNS.items()}
    return columns
