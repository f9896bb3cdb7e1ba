"""compare: two results on the cases that both have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.session import make_progress, session, summarise

RESULT = "RUN folder, or one that `medseg evaluate` wrote."


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help=RESULT, show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help=RESULT, show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where table and figure go.", show_default=False)
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="A column of both cases.csv.")] = "dice",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    tracking: o.Tracking = True,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Say whether B is better than A, case by case, with a 95 % interval over patients.

    Example: `medseg compare out/no_augment out/default -o out/comparison --metric nsd`
    """
    with session(
        "compare", subject=str(b), as_json=json, quiet=quiet, verbose=verbose, is_tracked=tracking
    ) as report:
        progress = make_progress(quiet=quiet)
        from medseg.workflows.compare import compare as work

        work(a, b, metric=metric, seed=seed, progress=progress, report=report, out=out, is_tracked=tracking)
        progress.say(summarise(report))
