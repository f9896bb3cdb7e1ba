"""compare: is B better than A on the cases that both have? Paired by id, with an interval over patients.

B minus A is taken case by case. The interval is that of `compare-configs` (`metrics.paired`), the p that of
Wilcoxon's signed rank test; the verdict follows the interval of the mean over labels alone, and the intervals
of single labels are not corrected for their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.core.errors import ConfigError
from medseg.core.files import make_folder, to_json, write_csv
from medseg.metrics.paired import METHOD, bootstrap_mean
from medseg.metrics.signed_rank import METHOD as TEST
from medseg.metrics.signed_rank import signed_rank
from medseg.tracking.plots import Picture, draw_paired
from medseg.tracking.store import start_run
from medseg.workflows.evaluate import KNOWN, UNKNOWN
from medseg.workflows.held_out import name_runs
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.scores import (
    BEST_IS_ONE,
    Label,
    Scores,
    check_references,
    is_better_low,
    load_scores,
)
from medseg.workflows.verdict import judge, word, word_measure

MEAN: Label = ("mean", "")
EQUAL = 5e-7  # files hold six digits
Table = Mapping[Label, Mapping[str, tuple[float, float]]]
"""Label -> case id -> value in A and in B; the mean over labels first."""


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Args:
        table: The values.
        names: Label -> how it is shown.
        patients: Case id -> whose it is.
        summary: "comparison" of the report, without the names of A and B.
    """

    table: Table
    names: Mapping[Label, str]
    patients: Mapping[str, str]
    summary: dict[str, Any]

    def lay_out(self) -> list[dict[str, Any]]:
        """Return a row a label and case."""
        return [
            {
                "id": case, "patient": self.patients[case], "label": label[0],
                "name": self.names[label], "a": round(a, 6),
                "b": round(b, 6), "delta": round(b - a, 6),
            }
            for label, cases in self.table.items()
            for case, (a, b) in cases.items()
        ]  # fmt: skip

    def draw(self, names: tuple[str, str]) -> Picture:
        """Return the figure of the paired differences."""
        differences = {
            self.names[label]: [b - a for a, b in cases.values()] for label, cases in self.table.items()
        }
        intervals = {row["name"]: (row["delta"]["low"], row["delta"]["high"]) for row in self.summary["rows"]}
        return draw_paired(differences, intervals, self.summary["metric"], names)


def compare(
    a: Path,
    b: Path,
    *,
    metric: str,
    seed: int,
    progress: Progress,
    report: Report,
    out: Path | None = None,
    is_tracked: bool = True,
) -> None:
    """Compare two results on the cases they share.

    Args:
        a: A RUN folder, or one that `medseg evaluate` wrote.
        b: Another.
        metric: A column of their cases.csv.
        seed: Of the bootstrap.
        progress: Told the result.
        report: Gets the cases, and "comparison".
        out: OUT/compare.{json,csv,png,svg}, if any.
        is_tracked: Whether it becomes a run of MLflow, where A or B is one.

    Raises:
        ConfigError: One cannot be read, or they cannot be paired.
    """
    names = name_runs([a, b])
    scores = load_scores(a, metric), load_scores(b, metric)
    comparison = pair(*scores, metric=metric, seed=seed)
    report.cases.extend(CaseResult(case, "done") for case in comparison.table[MEAN])
    for letter, name in zip("AB", names, strict=True):
        progress.say(f"{letter}: {name}")
    for line in word(comparison.summary):
        progress.say(line)
    run_ids = [side.run_id for side in scores]
    if is_tracked and any(run_ids):
        report.mlflow = track(comparison, scores, run_ids)
    sides = {
        letter: {"name": name, "n_cases": len(side.values), "mlflow_run_id": run_id}
        for letter, name, side, run_id in zip("ab", names, scores, run_ids, strict=True)
    }
    report.extra["comparison"] = {**comparison.summary, **sides}
    if out is not None:
        make_folder(out)
        write_csv(out / "compare.csv", comparison.lay_out())
        comparison.draw((names[0], names[1])).write(out / "compare")
        report.write(out / "compare.json")


def pair(a: Scores, b: Scores, *, metric: str, seed: int) -> Comparison:
    """Compare the cases and labels that both have.

    Raises:
        ConfigError: NO_CASES, LABELS_DIFFER or REFERENCES_DIFFER.
    """
    shared = sorted(a.values.keys() & b.values.keys())
    if not shared:
        raise ConfigError(
            "A and B share no case",
            hint="cases are paired by id; give results of one cohort",
            code="NO_CASES",
        )
    labels = [label for label in a.names if label in b.names]
    if not labels or any(_is_renamed(label, a.names[label], b.names[label]) for label in labels):
        raise ConfigError("A and B have different labels", hint="use one set of labels", code="LABELS_DIFFER")
    references = check_references(a, b, shared)
    table, alone = pair_values(a, b, shared, labels, is_full=metric in BEST_IS_ONE)
    if not table[MEAN]:
        raise ConfigError(
            f"{metric} is not defined for any shared case in both",
            hint="take another metric",
            code="NO_CASES",
        )
    known = {**b.patients, **a.patients}
    patients = {case: known.get(case, case) for case in shared}
    names = {MEAN: "mean over labels", **{label: a.names[label] for label in labels}}
    rows = [
        _summarise((label[0], names[label]), cases, patients, metric=metric, seed=seed)
        for label, cases in table.items()
        if cases
    ]
    summary = {
        "metric": metric,
        "measure": word_measure(metric),
        "n_cases": len(table[MEAN]),
        "n_patients": len({patients[case] for case in table[MEAN]}),
        "patients": KNOWN if known else UNKNOWN,
        "references": references,
        "left_out": {
            "cases_of_a": sorted(a.values.keys() - b.values.keys()),
            "cases_of_b": sorted(b.values.keys() - a.values.keys()),
            "cases_undefined": [case for case in shared if case not in table[MEAN]],
            "pairs_of_a": alone["a"],
            "pairs_of_b": alone["b"],
            "labels": sorted({**a.names, **b.names}[label] for label in a.names.keys() ^ b.names.keys()),
        },
        "interval": {**METHOD, "seed": seed},
        "test": TEST,
        "rows": rows,
        **judge(rows[0], metric, alone),
    }
    return Comparison(table, names, patients, summary)


def _is_renamed(label: Label, one: str, other: str) -> bool:
    """Whether a label has two names; its mere number is none."""
    return one != other and label[0] not in {one, other}


def pair_values(
    a: Scores, b: Scores, cases: Sequence[str], labels: Sequence[Label], *, is_full: bool
) -> tuple[dict[Label, dict[str, tuple[float, float]]], dict[str, int]]:
    """Return the values that both have, and how many pairs of case and label are defined in A or B alone.

    Args:
        a: One result.
        b: The other.
        cases: Ids that both have.
        labels: Labels that both have.
        is_full: Whether an undefined value means that nothing was to be found and nothing was: it counts 1
            where the other result invented something. Else a pair of which one is undefined is left out, as
            a pair without any value always is.
    """
    table: dict[Label, dict[str, tuple[float, float]]] = {MEAN: {}, **{label: {} for label in labels}}
    alone = {"a": 0, "b": 0}
    for case in cases:
        counted = []
        for label in labels:
            if label not in a.values[case] or label not in b.values[case]:
                continue  # one was not asked for it
            one, other = a.values[case][label], b.values[case][label]
            if is_full and (one, other) != (None, None):
                one, other = 1.0 if one is None else one, 1.0 if other is None else other
            if one is None or other is None:
                alone["a"] += other is None and one is not None
                alone["b"] += one is None and other is not None
                continue
            table[label][case] = one, other
            if label[0] != "region":
                counted.append((one, other))
        if counted:
            one, other = (math.fsum(side) / len(counted) for side in zip(*counted, strict=True))
            table[MEAN][case] = one, other
    return table, alone


def _summarise(
    label: tuple[str, str],
    cases: Mapping[str, tuple[float, float]],
    patients: Mapping[str, str],
    *,
    metric: str,
    seed: int,
) -> dict[str, Any]:
    differences = [b - a for a, b in cases.values()]
    owners = [patients[case] for case in cases]
    ups, downs = (sum(sign * d > EQUAL for d in differences) for sign in (1, -1))
    b_wins, a_wins = (downs, ups) if is_better_low(metric) else (ups, downs)
    p = signed_rank(differences, owners)
    mean_a, mean_b = (math.fsum(side) / len(cases) for side in zip(*cases.values(), strict=True))
    return {
        "label": label[0],
        "name": label[1],
        "a": round(mean_a, 6),
        "b": round(mean_b, 6),
        "delta": bootstrap_mean(differences, owners, seed=seed).to_json(),
        "wilcoxon_p": p if p is None else float(f"{p:.6g}"),
        "n_b_better": b_wins,
        "n_a_better": a_wins,
        "n_equal": len(cases) - b_wins - a_wins,
    }


def track(
    comparison: Comparison, scores: Sequence[Scores], run_ids: Sequence[str | None]
) -> dict[str, str] | None:
    """Log the comparison as a run beside those it compares; folder names stay here."""
    run = next(side.run for side in reversed(scores) if side.run_id and side.run)
    name = run.load_config().name
    sides = {f"medseg.compare.{letter}": run_id or "not tracked" for letter, run_id in zip("ab", run_ids)}
    summary = comparison.summary
    tracker = start_run(
        name,
        "compare",
        params={"metric": summary["metric"], "seed": summary["interval"]["seed"]},
        tags={"medseg.version": __version__, "medseg.verdict": summary["verdict"], **sides},
    )
    delta = summary["rows"][0]["delta"]
    tracker.log_metrics(
        {f"compare/{key}": delta[key] for key in ("mean", "low", "high")}
        | {"compare/wilcoxon_p": summary["rows"][0]["wilcoxon_p"]}
    )
    table = [{key: row[key] for key in row if key != "patient"} for row in comparison.lay_out()]
    tracker.log_table(table, "compare_cases.json")
    tracker.log_content(to_json(summary), "compare.json")
    picture = comparison.draw(("A", "B"))
    for kind in ("png", "svg"):
        tracker.log_content(getattr(picture, kind), f"compare.{kind}")
    tracker.end()
    return tracker.link
