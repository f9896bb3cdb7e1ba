"""promote: which model is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.session import make_progress, session


def promote(
    run: Annotated[Path, typer.Argument(help="A finished, tracked run folder.", show_default=False)],
    force: Annotated[
        str | None,
        typer.Option("--force", metavar="REASON", help="Promote without evidence.", show_default=False),
    ] = None,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Register the model of a run in MLflow, and make it the champion if it is shown to be better.

    Compared with the champion on cases that both held out, by the interval of the paired gain in Dice. The
    first model of a pipeline needs no evidence.

    Example: `medseg promote out/hippo`
    """
    with session("promote", subject=str(run), as_json=json, quiet=quiet, verbose=verbose) as report:
        from medseg.workflows.promote import promote as work
        from medseg.workflows.run_folder import RunFolder

        folder = RunFolder(run)
        folder.load_config()  # before the lock, which would make a folder
        with folder.locked():
            work(folder, progress=make_progress(quiet=quiet), report=report, force=force)
