"""compare-configs: which of several trained configurations is best on cases that none of them saw.

nnU-Net takes the largest mean (`nnUNetv2_find_best_configuration`). Here a configuration is named best only
where the interval of its paired gain over every other one lies above 0; else no difference is shown, and of
those not shown to be worse than the best mean the cheapest one is advised. To be named, it must beat each of
the others, so comparing many does not make a false name more likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.config import Config
from medseg.core.errors import ConfigError
from medseg.core.files import make_folder, write_csv
from medseg.metrics.paired import METHOD, Interval, bootstrap_mean
from medseg.workflows.held_out import HeldOutScores, load_scores, name_runs, refuse_differences
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.run import run
from medseg.workflows.run_folder import RunFolder

MEASURE = (
    "Dice of a case: mean over labels that the reference or any prediction holds, an empty prediction of "
    "an empty label counts 1; mean over cases"
)


def compare_configs(
    runs: Sequence[RunFolder], *, seed: int, progress: Progress, report: Report, out: Path | None = None
) -> None:
    """Compare finished runs of one cohort and one split on their held-out cases.

    Args:
        runs: Two or more.
        seed: Of the bootstrap.
        progress: Told the result.
        report: Gets the cases, and "comparison".
        out: OUT/{report.json,paired.csv}, if any.

    Raises:
        ConfigError: Fewer than two runs, or they differ in cases, splits, labels or references.
    """
    names = name_runs([folder.root for folder in runs])
    scores = [load_scores(folder, name) for folder, name in zip(runs, names, strict=True)]
    for other in scores[1:]:
        refuse_differences(scores[0], other)
    table = pair_scores(scores)
    known = {case.id for case in report.cases}
    report.cases.extend(CaseResult(name, "done") for name in table if name not in known)
    report.extra["comparison"] = comparison = summarise(scores, table, seed)
    for row in comparison["configs"]:
        progress.say(f"{row['name']}: mean Dice {row['mean_dice']:.4f}{_word_difference(row['behind_best'])}")
    progress.say(comparison["conclusion"])
    if out is not None:
        make_folder(out)
        write_csv(out / "paired.csv", lay_out(scores, table))
        report.write(out / "report.json")


def pair_scores(scores: Sequence[HeldOutScores]) -> dict[str, dict[str, list[float]]]:
    """Return case id -> label (or "mean") -> Dice in each run; cases without any label are left out."""
    table: dict[str, dict[str, list[float]]] = {}
    for case in scores[0].dice:
        rows: dict[str, list[float]] = {}
        for label in scores[0].labels:
            found = [run.dice[case][label] for run in scores]
            if any(value is not None for value in found):
                rows[label] = [1.0 if value is None else value for value in found]
        if rows:
            means = [math.fsum(values) / len(rows) for values in zip(*rows.values(), strict=True)]
            table[case] = {"mean": means, **rows}
    return table


def summarise(
    scores: Sequence[HeldOutScores], table: dict[str, dict[str, list[float]]], seed: int
) -> dict[str, Any]:
    """Return "comparison": a row a run, best mean first, who wins and what is advised."""
    patients = [scores[0].patients[case] for case in table]
    columns = list(zip(*(rows["mean"] for rows in table.values()), strict=True))
    means = [math.fsum(column) / len(column) for column in columns]
    order = sorted(range(len(scores)), key=lambda index: (-means[index], scores[index].cost))
    best = order[0]
    behind: dict[int, Interval] = {
        index: bootstrap_mean(
            [a - b for a, b in zip(columns[best], columns[index], strict=True)], patients, seed=seed
        )
        for index in order[1:]
    }
    equals = [index for index in order if index == best or not behind[index].is_above_zero]
    advised = min(equals, key=lambda index: (scores[index].cost, order.index(index)))
    winner = scores[best].name if equals == [best] else None
    return {
        "measure": MEASURE,
        "n_cases": len(table),
        "n_patients": len(set(patients)),
        "folds": scores[0].folds,
        "interval": {**METHOD, "seed": seed},
        "configs": [
            {
                "name": scores[index].name,
                "mean_dice": round(means[index], 6),
                "labels": _mean_labels(scores, table, index),
                "behind_best": behind[index].to_json() if index in behind else None,
                "training_s": round(scores[index].training_s, 1),
                "parameters": scores[index].parameters,
            }
            for index in order
        ],
        "winner": winner,
        "advised": scores[advised].name,
        "conclusion": _conclude(winner, [scores[index].name for index in equals], scores[advised].name),
    }


def _mean_labels(
    scores: Sequence[HeldOutScores], table: dict[str, dict[str, list[float]]], index: int
) -> dict[str, Any]:
    rows = {}
    for label, name in scores[0].labels.items():
        values = [case[label][index] for case in table.values() if label in case]
        dice = round(math.fsum(values) / len(values), 6) if values else None
        rows[label] = {"name": name, "dice": dice, "n": len(values)}
    return rows


def _conclude(winner: str | None, equals: Sequence[str], advised: str) -> str:
    if winner:
        return f"best: {winner}; its gain over every other one lies above 0"
    return f"no difference shown between {', '.join(equals)}; the cheapest of them to train is {advised}"


def _word_difference(behind: dict[str, Any] | None) -> str:
    if behind is None:
        return ""
    if behind["low"] is None:
        return f", {behind['mean']:.4f} behind the best ({behind['n_patients']} patients: too few to tell)"
    interval = f"95 % interval {behind['low']:.4f} to {behind['high']:.4f}"
    return f", {behind['mean']:.4f} behind the best ({interval})"


def lay_out(
    scores: Sequence[HeldOutScores], table: dict[str, dict[str, list[float]]]
) -> list[dict[str, Any]]:
    """Return a row a case and label: the mean over labels first, then each of them."""
    return [
        {
            "id": case,
            "patient": scores[0].patients[case],
            "fold": scores[0].fold_of[case],
            "label": label,
            "name": scores[0].labels.get(label, ""),
            **{run.name: round(value, 6) for run, value in zip(scores, values, strict=True)},
        }
        for case, rows in table.items()
        for label, values in rows.items()
    ]


def train_configs(
    configs: dict[str, Config],
    data: Path,
    out: Path,
    *,
    folds: Sequence[int],
    progress: Progress,
    report: Report,
    is_tracked: bool,
    key_file: Path,
) -> list[RunFolder]:
    """Run each config into OUT/<name>, where it goes on if it was killed; return the runs.

    Raises:
        ConfigError: SPLITS_DIFFER or LABELS_DIFFER, before anything is trained.
        ResourceError: RUN_LOCKED.
    """
    first = next(iter(configs.values()))
    for name, config in configs.items():
        if (config.split, config.seed, config.data.group_pattern) != (
            first.split,
            first.seed,
            first.data.group_pattern,
        ):
            raise ConfigError(
                f"{name} would divide the cases differently",
                hint="leave split, seed and data.group_pattern as they are",
                code="SPLITS_DIFFER",
            )
        if config.data.labels != first.data.labels:
            raise ConfigError(f"{name} has other labels", hint="use one set", code="LABELS_DIFFER")
    found = []
    for name, config in configs.items():
        progress.say(f"config {name}")
        folder, inner = RunFolder(out / name), Report("run")
        with folder.locked():
            folder.settle_config(config)
            run(
                config,
                data,
                folder,
                folds=folds,
                progress=progress,
                report=inner,
                is_tracked=is_tracked,
                key_file=key_file,
            )
        known = {case.id for case in report.cases}
        report.cases.extend(case for case in inner.bad_cases if case.id not in known)
        found.append(folder)
    return found
