"""The figures of a run (RUN/evaluation/plots) and of an evaluation (OUT/plots), from scores and histories."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medseg.config import Config
from medseg.core.files import make_folder, write_bytes
from medseg.metrics import CaseMetrics, iterate_rows, rows
from medseg.tracking import plots
from medseg.workflows.run_folder import RunFolder

VOLUME = "volume_reference_ml"
DRAWN = {"id", "label", "name", "dice", "nsd", VOLUME, "volume_predicted_ml"}  # columns that a figure reads
Drawings = dict[str, Callable[[], plots.Picture]]


def draw_figures(
    config: Config, folder: RunFolder, cases: Sequence[CaseMetrics], found: Mapping[str, Any]
) -> None:
    """Draw the scores of a run, by fold too, how far its confidence can be believed, and its trainings.

    Args:
        config: The task.
        folder: Of the run.
        cases: Evaluated.
        found: The report's "metrics", and "trust" where it was learnt.
    """
    splits = folder.load_splits()
    fold_of = {name: fold for fold in folder.trained_folds for name in splits.validation(fold)}
    table = [{**row, "fold": fold_of.get(row["id"], "")} for row in rows(cases)]
    drawings = list_drawings(table, found["metrics"])
    if len(folder.trained_folds) > 1:
        drawings["folds"] = lambda: plots.draw_folds(table)
    if bins := found.get("trust", {}).get("bins"):
        drawings["reliability"] = lambda: plots.draw_reliability(bins)
    if histories := read_histories(folder):
        patience = config.train.early_stop_epochs or 0
        chosen = {fold: plots.find_chosen_epoch(history, patience) for fold, history in histories.items()}
        drawings["training"] = lambda: plots.draw_curves(histories, chosen)
    write_figures(folder.evaluation / "plots", drawings)


def draw_scores(out: Path, cases: Iterable[CaseMetrics], metrics: Mapping[str, Any]) -> list[Path]:
    """Draw the scores of any evaluation into a folder, and return the files."""
    table = [{key: row[key] for key in DRAWN & row.keys()} for row in iterate_rows(cases)]
    return write_figures(out, list_drawings(table, metrics))


def list_drawings(table: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> Drawings:
    """Return name -> what draws it, of the scores of any evaluation.

    Args:
        table: Of `medseg.metrics.rows`.
        metrics: Of metrics.json.
    """
    known, confusion = table[0] if table else {}, metrics["confusion"]
    names = [
        metrics["labels"][str(value)]["name"] if value else "background" for value in confusion["labels"]
    ]
    drawings: Drawings = {"confusion": lambda: plots.draw_confusion(confusion["voxels"], names)}
    for metric in ("dice", "nsd"):
        if metric in known:
            drawings[metric] = partial(plots.draw_distributions, table, metric)
    if {"dice", VOLUME} <= known.keys():
        drawings["dice_by_size"] = lambda: plots.draw_size(table, "dice")
    if VOLUME in known:
        drawings["volumes"] = lambda: plots.draw_bland_altman(table)
    if calibration := metrics.get("calibration"):
        drawings["reliability"] = lambda: plots.draw_reliability(calibration["bins_foreground"])
    return drawings


def write_figures(out: Path, drawings: Drawings) -> list[Path]:
    """Draw into a folder, and return the files: a PNG and an SVG each."""
    made = []
    for name, draw in sorted(drawings.items()):
        picture = draw()
        for kind, content in (("png", picture.png), ("svg", picture.svg)):
            made.append(make_folder(out) / f"{name}.{kind}")
            write_bytes(made[-1], content)
    return made


def read_histories(folder: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each trained fold's history.csv, by its number."""
    found = {}
    for fold in folder.trained_folds:
        path = Path(folder.fold(fold), "history.csv")
        if path.exists():
            with path.open(encoding="utf-8", newline="") as stream:
                found[str(fold)] = list(csv.DictReader(stream))
    return found
