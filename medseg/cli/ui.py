"""ui: the MLflow server on loopback."""

from __future__ import annotations

from typing import Annotated

import typer

from medseg.cli.session import session


def ui(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="First port to try.")] = 5000,
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; beyond loopback with --without-login only.")
    ] = "127.0.0.1",
    without_login: Annotated[
        bool,
        typer.Option(
            "--without-login", help="Let everyone who reaches the port read, change and delete runs."
        ),
    ] = False,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="NAME",
            help="Name by which browsers elsewhere reach it; repeatable.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start MLflow on this machine only and print a link that opens the runs.

    Example: `medseg ui`
    """
    with session("ui"):
        from medseg.tracking.ui import serve

        serve(port, host, names=allowed_hosts or (), is_open=without_login)
