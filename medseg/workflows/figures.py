"""RUN/evaluation/plots: the figures of a run, each as PNG and SVG, from its scores and histories."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medseg.config import Config
from medseg.core.files import make_folder, write_bytes
from medseg.metrics import CaseMetrics, rows
from medseg.tracking import plots
from medseg.workflows.run_folder import RunFolder


def draw_figures(config: Config, folder: RunFolder, cases: Sequence[CaseMetrics]) -> None:
    """Draw how scores are spread, against size and by fold, volumes against the reference, and trainings."""
    splits = folder.load_splits()
    fold_of = {name: fold for fold in folder.trained_folds for name in splits.validation(fold)}
    table = [{**row, "fold": fold_of.get(row["id"], "")} for row in rows(cases)]
    drawings: dict[str, Callable[[], plots.Picture]] = {
        "dice": lambda: plots.draw_distributions(table, "dice"),
        "nsd": lambda: plots.draw_distributions(table, "nsd"),
        "dice_by_size": lambda: plots.draw_size(table, "dice"),
        "volumes": lambda: plots.draw_bland_altman(table),
    }
    if len(folder.trained_folds) > 1:
        drawings["folds"] = lambda: plots.draw_folds(table)
    if histories := read_histories(folder):
        patience = config.train.early_stop_epochs or 0
        chosen = {fold: plots.find_chosen_epoch(history, patience) for fold, history in histories.items()}
        drawings["training"] = lambda: plots.draw_curves(histories, chosen)
    out = make_folder(folder.evaluation / "plots")
    for name, draw in drawings.items():
        picture = draw()
        write_bytes(out / f"{name}.png", picture.png)
        write_bytes(out / f"{name}.svg", picture.svg)


def read_histories(folder: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each trained fold's history.csv, by its number."""
    found = {}
    for fold in folder.trained_folds:
        path = Path(folder.fold(fold), "history.csv")
        if path.exists():
            with path.open(encoding="utf-8", newline="") as stream:
                found[str(fold)] = list(csv.DictReader(stream))
    return found
