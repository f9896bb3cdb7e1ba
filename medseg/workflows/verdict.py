"""A comparison in words: what was measured, each label in a line, and who is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.metrics.paired import MIN_GROUPS
from medseg.workflows.scores import BEST_IS_ONE, is_better_low, is_error


def judge(row: Mapping[str, Any], metric: str, alone: Mapping[str, int]) -> dict[str, Any]:
    """Return who is "better" ("a", "b" or None) and the "verdict" in a sentence.

    Args:
        row: Of the mean over labels.
        metric: What was compared.
        alone: "a" and "b" -> how many pairs of case and label only that one defines, which count for nothing.
    """
    found = _judge(row, metric)
    if n := sum(alone.values()):
        found["verdict"] += (
            f"; {n} pair{'s' * (n > 1)} that one alone defines not counted (A {alone['a']}, B {alone['b']})"
        )
    return found


def _judge(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    delta = row["delta"]
    mean, low, high = delta["mean"], delta["low"], delta["high"]
    if low is None:
        few = f"too few patients to tell ({delta['n_patients']}, {MIN_GROUPS} are needed)"
        return {"better": None, "verdict": f"{few}: B − A = {mean:+.4f}"}
    if low <= 0 <= high:
        return {
            "better": None,
            "verdict": f"no difference shown: B − A = {mean:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}]",
        }
    winner = "b" if (mean > 0) != is_better_low(metric) else "a"
    near, far = sorted((abs(low), abs(high)))
    gain = f"by {abs(mean):.4f} [{near:.4f}, {far:.4f}] in {metric}"
    return {
        "better": winner,
        "verdict": f"{winner.upper()} is better {gain} ({delta['n_patients']} patients)",
    }


def word_measure(metric: str) -> str:
    what = f"|{metric}|" if is_error(metric) else metric
    empty = (
        "where nothing was to be found and one result found nothing, that one counts 1"
        if metric in BEST_IS_ONE
        else "pairs of which one is undefined are left out: read it beside the Dice"
    )
    best = "lower" if is_better_low(metric) else "higher"
    return f"{what}, {best} is better; B minus A, mean over the labels of a case, then over cases; {empty}"


def word(summary: Mapping[str, Any]) -> list[str]:
    """Return the comparison as lines: what is left out, a line a label, the verdict."""
    left, lines = summary["left_out"], []
    for key, text in (
        ("cases_of_a", "only in A"),
        ("cases_of_b", "only in B"),
        ("cases_undefined", f"without {summary['metric']} in both"),
        ("labels", "labels, of one only"),
    ):
        if found := left[key]:
            more = ", …" if len(found) > 5 else ""
            lines.append(f"left out, {text}: {len(found)} ({', '.join(found[:5])}{more})")
    for row in summary["rows"]:
        delta, p = row["delta"], row["wilcoxon_p"]
        interval = "" if delta["low"] is None else f" [{delta['low']:+.4f}, {delta['high']:+.4f}]"
        lines.append(
            f"{row['name']}: A {row['a']:.4f}, B {row['b']:.4f}, B − A {delta['mean']:+.4f}{interval}, "
            f"p {'-' if p is None else format(p, '.2g')}, B better in {row['n_b_better']}, "
            f"A in {row['n_a_better']}, equal in {row['n_equal']}"
        )
    return [*lines, summary["verdict"]]
