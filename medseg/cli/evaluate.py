"""evaluate: masks of any tool against references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medseg.cli import options as o
from medseg.cli.session import make_progress, say_mlflow, session, summarise
from medseg.core.errors import ConfigError


def evaluate(
    reference: Annotated[Path, typer.Argument(help="Folder or file of reference masks.", show_default=False)],
    predicted: Annotated[Path, typer.Argument(help="Folder or file of predicted masks.", show_default=False)],
    out: o.Out,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Such as 1,2 or 1=organ,2=lesion.", show_default=False)
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            "--region",
            metavar="NAME=VALUES",
            help="Labels that together are one structure, such as whole=1,2; repeatable.",
            show_default=False,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="Names of `medseg list metrics`, or all.", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METRIC.OPTION=VALUE", help="Repeatable.", show_default=False),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option("--groups", help="CSV: id, [patient], site, sex, ...", show_default=False),
    ] = None,
    ignore_label: Annotated[
        int | None,
        typer.Option("--ignore-label", help="Value of the reference to leave out.", show_default=False),
    ] = None,
    nsd_tolerance_mm: Annotated[float, typer.Option("--nsd-tolerance-mm", help="Tolerance of NSD.")] = 1.0,
    instances: Annotated[
        bool, typer.Option("--instances", help="The maps hold object ids of one class.")
    ] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Cases compared at once.")] = 1,
    plots: Annotated[bool, typer.Option("--plots", help="Draw figures into OUT/plots.")] = False,
    tracking: o.Tracking = False,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Compare masks with references, paired by id, whatever tool made them.

    Example: `medseg evaluate labelsTs/ out/masks -o out/evaluation --labels 1,2`
    """
    with session(
        "evaluate", subject=str(predicted), as_json=json, quiet=quiet, verbose=verbose, is_tracked=tracking
    ) as report:
        from medseg.metrics.chosen import choose_metrics
        from medseg.workflows.evaluate import Comparison
        from medseg.workflows.evaluate import evaluate as work
        from medseg.workflows.pairs import check_groups, pair_files, read_groups
        from medseg.workflows.parallel import Workers

        progress = make_progress(quiet=quiet)
        comparison = Comparison(
            o.parse_labels(labels) if labels else None,
            choose_metrics(
                metrics.split(",") if metrics else None,
                _parse_options(set_ or []),
                nsd_tolerance_mm=nsd_tolerance_mm,
            ),
            regions=_parse_regions(region or []),
            ignore_label=ignore_label,
            is_instances=instances,
        )
        cohort = read_groups(groups) if groups else None
        pairs = pair_files(reference, predicted, report)
        if cohort:
            check_groups(cohort, pairs)
        with Workers(workers) as pool:
            scores = work(
                pairs, comparison, out, progress=progress, report=report, cohort=cohort, workers=pool
            )
        drawn = []
        if plots:
            from medseg.workflows.figures import draw_scores

            drawn = draw_scores(out / "plots", scores, report.extra["metrics"])
        if tracking:
            from medseg.workflows.tracked_evaluate import track_evaluation

            track_evaluation(report, scores, pairs, out, drawn)
        found = report.extra["metrics"]
        unit = "px" if "units" in found["definitions"] else "mm"
        for label, row in [*found["labels"].items(), *found.get("regions", {}).items()]:
            progress.say(_word_label(label, row, unit))
        progress.say(summarise(report))
        say_mlflow(report, progress)


def _word_label(label: str, row: dict[str, Any], unit: str) -> str:
    parts = []
    for name, words in (("dice", "Dice"), ("hd95_mm", "HD95")):
        if name in row:
            interval = row["ci95"][name]
            ending = f" {unit}" if name.endswith("_mm") else ""
            parts.append(f"{words} {row[name]}{f' {interval}' if interval else ''}{ending}")
    kind = "label" if label.isdecimal() else "region"
    title = f"{kind} {label}" + (f" {row['name']}" if row["name"] != label else "")
    return f"{title}: {', '.join([*parts, '']) if parts else ''}n {row['n']}"


def _parse_regions(texts: list[str]) -> dict[str, list[int]]:
    """Return name -> values of NAME=1,2 texts."""
    found = {}
    for text in texts:
        name, _, values = text.partition("=")
        try:
            found[name.strip()] = [int(value) for value in values.split(",")]
        except ValueError:
            name = ""
        if not name.strip() or min(found.get(name.strip(), [0])) < 1:
            raise ConfigError(f"--region {text} is not NAME=NUMBERS", hint="for example --region whole=1,2")
    return found


def _parse_options(settings: list[str]) -> dict[str, dict[str, Any]]:
    """Return metric -> option -> value of METRIC.OPTION=VALUE texts; a value is read as JSON is."""
    from json import JSONDecodeError, loads

    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        metric, _, option = key.rpartition(".")
        try:
            value = loads(text)
        except JSONDecodeError:
            value = None
        if not metric or not isinstance(value, (int, float)):
            raise ConfigError(
                f"--set {setting} is not METRIC.OPTION=NUMBER", hint="for example --set nsd.tolerance_mm=2"
            )
        found.setdefault(metric, {})[option] = value
    return found
