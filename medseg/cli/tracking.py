"""tracking: what MLflow has of our runs."""

from __future__ import annotations

from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.session import make_progress, session, summarise

tracking_app = typer.Typer(help="What MLflow has of the runs.", no_args_is_help=True)


@tracking_app.command("sync")
def sync(
    moved: Annotated[
        bool,
        typer.Option("--moved", help="The store has a new address: take what was meant for another, too."),
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Send to MLflow what it missed while it could not be reached; again is never twice.

    Example: `medseg tracking sync`
    """
    with session("tracking sync", as_json=json, quiet=quiet) as report:
        from medseg.workflows.tracking_sync import sync as work

        progress = make_progress(quiet=quiet)
        work(progress=progress, report=report, is_moved=moved)
        counts = report.extra["sync"]
        sent = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in counts.items() if n)
        progress.say(f"sent: {sent or 'nothing'}")
        progress.say(summarise(report))
