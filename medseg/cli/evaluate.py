"""evaluate: masks of any tool against references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.session import make_progress, session, summarise
from medseg.core.errors import ConfigError


def evaluate(
    reference: Annotated[Path, typer.Argument(help="Folder or file of reference masks.", show_default=False)],
    predicted: Annotated[Path, typer.Argument(help="Folder or file of predicted masks.", show_default=False)],
    out: o.Out,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Label values, such as 1,2.", show_default=False)
    ] = None,
    ignore_label: Annotated[
        int | None,
        typer.Option("--ignore-label", help="Value of the reference to leave out.", show_default=False),
    ] = None,
    nsd_tolerance_mm: Annotated[float, typer.Option("--nsd-tolerance-mm", help="Tolerance of NSD.")] = 1.0,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Compare masks with references, paired by id, whatever tool made them.

    Example: `medseg evaluate labelsTs/ out/masks -o out/evaluation --labels 1,2`
    """
    with session("evaluate", subject=str(predicted), as_json=json, quiet=quiet, verbose=verbose) as report:
        from medseg.workflows.evaluate import evaluate as work
        from medseg.workflows.evaluate import find_labels, pair_files

        progress = make_progress(quiet=quiet)
        pairs = pair_files(reference, predicted, report)
        values = _parse_labels(labels) if labels else find_labels(pairs, ignore_label)
        work(
            pairs,
            values,
            out,
            progress=progress,
            report=report,
            nsd_tolerance_mm=nsd_tolerance_mm,
            ignore_label=ignore_label,
        )
        for label, row in report.extra["metrics"]["labels"].items():
            progress.say(f"label {label}: Dice {row['dice']}, HD95 {row['hd95_mm']} mm, n {row['n']}")
        progress.say(summarise(report))


def _parse_labels(text: str) -> dict[int, str]:
    try:
        return {int(part): part.strip() for part in text.split(",")}
    except ValueError:
        raise ConfigError(
            f"--labels {text} is not a list of numbers", hint="for example --labels 1,2"
        ) from None
