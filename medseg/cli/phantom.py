"""phantom: synthetic patients to try everything on."""

from __future__ import annotations

from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.session import make_progress, session
from medseg.core.errors import ConfigError


def phantom(
    out: o.Out,
    cases: Annotated[int, typer.Option("--cases", min=1, help="How many.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another cohort.")] = 0,
    kind: Annotated[
        str, typer.Option("--kind", help="ct (3D, MSD layout) or xray (2D, two folders).")
    ] = "ct",
    quiet: o.Quiet = False,
) -> None:
    """Write a synthetic labelled cohort; no patient, CC0.

    Example: `medseg phantom -o out/phantom --cases 24`
    """
    with session("phantom", subject=str(out), quiet=quiet):
        from medseg.core.select import suggest
        from medseg.data.phantom import KINDS

        if kind not in KINDS:
            raise ConfigError(
                f"no phantom is called `{kind}`", hint=suggest(kind, KINDS), code="UNKNOWN_NAME"
            )
        KINDS[kind](out, cases, seed)
        make_progress(quiet=quiet).say(f"{cases} {kind} phantoms written to {out}")
