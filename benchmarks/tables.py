"""docs/benchmarks.md from the ledger: the parts between markers are computed from the results alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import experiments
from experiments import ROOT, Experiment, Tree, queue, unique
from medseg_side import read

from medseg.metrics.paired import Interval, bootstrap_mean

PAGE = ROOT / "docs" / "benchmarks.md"
MARK = re.compile(r"(<!-- ledger: (\w+) -->\n).*?(<!-- ledger: end -->)", re.DOTALL)
SIZES = ROOT / "benchmarks" / "networks.json"
MISSING = "–"
CURVE_POINTS = 8


class Ledger:
    """Results by the id of their experiment."""

    def __init__(self, folder: Path) -> None:
        self.by_id = {path.stem: read(path) for path in sorted(folder.glob("*.json"))}

    def find(self, experiment: Experiment) -> Tree | None:
        """Return an experiment's result, or None where there is none for the settings as they are."""
        return next((self.by_id[key] for key in unique([experiment]) if key in self.by_id), None)

    def all(self, runs: Iterable[Experiment]) -> list[Tree]:
        """Return the results that there are."""
        return [result for result in map(self.find, runs) if result]


def write_page(folder: Path) -> int:
    """Put every table between its markers and return 0."""
    ledger = Ledger(folder)
    PAGE.write_text(fill(PAGE.read_text(), ledger))
    print(f"{len(ledger.by_id)} results -> {PAGE.relative_to(ROOT)}")
    return 0


def fill(page: str, ledger: Ledger) -> str:
    """Return the page with the parts between markers computed anew."""
    return MARK.sub(lambda match: f"{match[1]}{PARTS[match[2]](ledger)}\n{match[3]}", page)


# ---- the tables ---------------------------------------------------------------------------------


def quality(ledger: Ledger) -> str:
    """Dice of the default on hippocampus, with its spread over seeds."""
    rows = []
    for budget, target in experiments.QUALITY_TARGETS.items():
        runs = [run for run in experiments.QUALITY if run.budget_cpu_s == budget]
        rows.append(quality_row(ledger.all(runs), budget, f">= {target}", len(runs)))
    rows.append(quality_row(ledger.all(experiments.LONG), experiments.LONG[0].budget_cpu_s, "reported", 1))
    head = ["budget", "seeds", "mean Dice", "anterior", "posterior", "target", "CPU-seconds", "iterations"]
    return table(head, rows)


def quality_row(results: list[Tree], budget: int, target: str, wanted: int) -> list[str]:
    """Return a row of means over seeds; spreads are standard deviations."""
    counted = within(results)
    if not counted:
        return [str(budget), f"0 of {wanted}", MISSING, MISSING, MISSING, target, spent(results), MISSING]
    means = [result["mean_dice"] for result in counted]
    labels = [f"{fmean(label_means(result)[i] for result in counted):.4f}" for i in range(2)]
    count = f"{len(counted)} of {wanted}" if len(counted) < wanted else str(wanted)
    return [str(budget), count, spread(means), *labels, target, spent(results), iterations(counted)]


def peer(ledger: Ledger) -> str:
    """Ours and nnU-Net's at equal budgets, with the paired interval of the difference."""
    rows = []
    for budget in experiments.PEER_BUDGETS:
        found = {run.side: ledger.find(run) for run in experiments.PEER if run.budget_cpu_s == budget}
        for side in experiments.SIDES:
            result, ours = found[side], found["medseg"]
            difference = MISSING
            if side != "medseg" and result and ours and len(within([result, ours])) == 2:
                difference = show(paired_interval(*pair(ours, result)), sign="+")
            rows.append([str(budget), side, dice(result), difference, *cost(result)])
    return table(["budget", "side", "mean Dice", "ours - theirs", *COST], rows)


def networks(ledger: Ledger) -> str:
    """Networks at one budget."""
    rows = []
    for run, (_, target) in zip(experiments.COMPARED, experiments.NETWORKS.values(), strict=True):
        result = ledger.find(run)
        wanted = f">= {target}" if target else ""
        rows.append([run.name, show_settings(run.settings), with_interval(result), wanted, *cost(result)])
    return table(["network", "settings", "mean Dice", "target", *COST], rows)


def sizes(ledger: Ledger) -> str:
    """Every network's size and cost, from networks.py."""
    rows = []
    for row in read(SIZES)["rows"] if SIZES.exists() else []:
        options = show_settings(row.get("options", {}))
        cells = [MISSING, MISSING, row.get("reason", "")]
        if "reason" not in row:
            cells = [f"{row['parameters'] / 1e6:.3f} M", f"{row['gflop']:.2f}", f"{row['step_cpu_s']:.3f}"]
        rows.append([row["network"], f"{row['dims']}D", options, *cells])
    return table(["network", "", "options", "parameters", "GFLOP", "CPU-seconds a sample"], rows)


def tasks(ledger: Ledger) -> str:
    """Other tasks; several folds are one row over all their cases."""
    rows = []
    for pipeline, target in experiments.TASK_TARGETS.items():
        runs = [run for run in experiments.TASKS if run.pipeline == pipeline]
        results = [result for result in ledger.all(runs) if result["cpu_s"] <= experiments.TASK_LIMIT_CPU_S]
        values = [value for result in results for value in per_case(result).values()]
        figure = show(interval(values)) if values else MISSING
        folds = f"{len(results)} of {len(runs)}"
        dearest = max((result["cpu_s"] for result in results), default=None)
        cost = MISSING if dearest is None else f"<= {dearest:.0f}"
        rows.append([pipeline, folds, str(len(values)), figure, f">= {target}", cost])
    return table(["pipeline", "folds", "cases", "mean Dice", "target", "CPU-seconds"], rows)


def ablation(ledger: Ledger) -> str:
    """Each variant against the default: cases paired, each averaged over the seeds that both have."""

    def by_seed(name: str) -> dict[int, Tree | None]:
        return {run.seed: ledger.find(run) for run in experiments.ABLATION if run.name == name}

    default = by_seed("default")
    known = {result["id"] for result in default.values() if result}
    rows = [["default", "", *averaged(list(default.values())), MISSING]]
    for name, settings in experiments.VARIANTS.items():
        found = by_seed(name)
        both = {seed: [side for side in (found[seed], default[seed]) if side] for seed in found}
        pairs = [pair(*sides) for sides in both.values() if len(within(sides)) == 2]
        difference = MISSING
        if any(result and result["id"] in known for result in found.values()):
            difference = "is the default"
        elif pairs:
            sides = [[fmean(values) for values in zip(*side)] for side in zip(*pairs)]
            difference = show(paired_interval(*sides), sign="+")
        rows.append([name, show_settings(settings), *averaged(list(found.values())), difference])
    return table(["recipe", "settings", "seeds", "mean Dice", "variant - default"], rows)


def curves(ledger: Ledger) -> str:
    """Dice of held-out cases on their way, of the default recipe."""
    rows = []
    for run in [*experiments.QUALITY, *experiments.LONG]:
        if result := ledger.find(run):
            points = result["curve"][:: max(1, len(result["curve"]) // CURVE_POINTS)]
            points += result["curve"][-1:] if points and points[-1] != result["curve"][-1] else []
            shown = ", ".join(f"{point['dice']:.3f} at {point['cpu_s']:.0f}" for point in points)
            rows.append([str(run.budget_cpu_s), str(run.seed), shown, dice(result)])
    return table(["budget", "seed", "Dice over all voxels, at CPU-seconds", "mean Dice at the end"], rows)


def tried(ledger: Ledger) -> str:
    """Results that no table above asks for: other recipes, and earlier defaults."""
    current = set(unique(queue()))
    others = [result for key, result in ledger.by_id.items() if key not in current]
    others.sort(key=lambda r: (r["pipeline"], r["budget_cpu_s"], -r["mean_dice"]))
    rows = [
        [r["pipeline"], r["name"], show_settings(r["settings"]), *(str(r[key]) for key in HELD)]
        + [dice(r), *cost(r), ", ".join(r["commits"])]
        for r in others
    ]
    return table(
        ["pipeline", "name", "settings", "budget", "seed", "fold", "mean Dice", *COST, "commit"], rows
    )


def machines(ledger: Ledger) -> str:
    """Where the results come from."""
    found: dict[str, int] = {}
    for result in ledger.by_id.values():
        machine = result["machine"]
        bf16 = "bf16" if machine["bf16"] else "no bf16"
        name = f"{machine['cpu']}, {machine['cores']} cores, {bf16}, torch {machine['torch']}"
        found[name] = found.get(name, 0) + 1
    return table(["machine", "results"], [[name, str(count)] for name, count in sorted(found.items())])


PARTS: dict[str, Callable[[Ledger], str]] = {
    "quality": quality,
    "peer": peer,
    "networks": networks,
    "sizes": sizes,
    "tasks": tasks,
    "ablation": ablation,
    "curves": curves,
    "tried": tried,
    "machines": machines,
}

# ---- cells --------------------------------------------------------------------------------------

HELD = ("budget_cpu_s", "seed", "fold")
COST = ["CPU-seconds", "iterations", "CPU-seconds an iteration"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def within(results: Iterable[Tree]) -> list[Tree]:
    """Return the results that kept to their budget."""
    return [result for result in results if result["is_within"]]


def per_case(result: Tree) -> dict[str, float]:
    """Return case -> mean Dice over its labels; a case without any defined one is left out."""
    means = {}
    for case, labels in result["dice"].items():
        defined = [value for value in labels.values() if value is not None]
        if defined:
            means[case] = fmean(defined)
    return means


def pair(a: Tree, b: Tree) -> tuple[list[float], list[float]]:
    """Return the Dice of the cases that both have, in one order."""
    first, second = per_case(a), per_case(b)
    both = sorted(first.keys() & second.keys())
    return [first[case] for case in both], [second[case] for case in both]


def label_means(result: Tree) -> list[float]:
    """Return the mean Dice of each label."""
    labels = next(iter(result["dice"].values()))
    columns = ([case[label] for case in result["dice"].values()] for label in labels)
    return [fmean(value for value in column if value is not None) for column in columns]


def averaged(results: Sequence[Tree | None]) -> list[str]:
    """Return how many seeds there are, and their mean with its spread."""
    means = [result["mean_dice"] for result in within(result for result in results if result)]
    return [f"{len(means)} of {len(results)}", spread(means) if means else MISSING]


def spread(values: Sequence[float]) -> str:
    """Return a mean and the standard deviation over seeds."""
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def interval(values: Sequence[float]) -> Interval:
    """Return the mean over cases and its interval; in these cohorts every case is a patient."""
    return bootstrap_mean(values, range(len(values)), seed=0)


def paired_interval(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Return the mean of a - b, case by case, and its interval."""
    return interval([x - y for x, y in zip(a, b, strict=True)])


def show(figure: Interval, sign: str = "") -> str:
    """Return a mean with its interval, if there is one."""
    if figure.low is None:
        return f"{figure.mean:{sign}.4f}"
    return f"{figure.mean:{sign}.4f} [{figure.low:{sign}.4f}, {figure.high:{sign}.4f}]"


def dice(result: Tree | None) -> str:
    """Return a mean Dice, and a word where the budget was not kept."""
    if not result:
        return MISSING
    return f"{result['mean_dice']:.4f}" + ("" if result["is_within"] else " (over budget)")


def with_interval(result: Tree | None) -> str:
    """Return a mean Dice with its interval over cases."""
    if not result or not result["is_within"]:
        return dice(result)
    return show(interval(list(per_case(result).values())))


def cost(result: Tree | None) -> list[str]:
    """Return the cells of COST."""
    if not result:
        return [MISSING] * len(COST)
    return [f"{result['cpu_s']:.0f}", str(result["iterations"]), f"{result['iteration_cpu_s']:.2f}"]


def spent(results: Iterable[Tree]) -> str:
    """Return the CPU seconds of the dearest run, and a word where one was over its budget."""
    results = list(results)
    if not results:
        return MISSING
    over = sum(not result["is_within"] for result in results)
    return f"<= {max(result['cpu_s'] for result in results):.0f}" + (f", {over} over budget" if over else "")


def iterations(results: Iterable[Tree]) -> str:
    """Return the iterations of runs, as a range where they differ."""
    counts = sorted({int(result["iterations"]) for result in results})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"


def show_settings(settings: dict[str, Any] | Any) -> str:
    """Return `--set` arguments as code."""
    return " ".join(f"`{key}={value}`" for key, value in settings.items())
