"""ui: the MLflow server on loopback."""

from __future__ import annotations

from typing import Annotated

import typer

from medseg.cli.session import session


def ui(
    port: Annotated[int, typer.Option("--port", help="First port to try.")] = 5000,
) -> None:
    """Start MLflow on this machine only and print a link that opens the runs.

    Example: `medseg ui`
    """
    with session("ui"):
        from medseg.tracking.ui import serve

        serve(port)
