"""review: a page that shows what a run or a folder of masks holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.dicom import find_key
from medseg.cli.session import make_progress, session, summarise

Folder = Annotated[
    Path,
    typer.Argument(metavar="RUN|DIR", help="A run, a folder of masks, or an evaluation.", show_default=False),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="The page, or its folder; else review.html in RUN|DIR.", show_default=False
    ),
]
Masks = Annotated[Path | None, typer.Option(help="Masks of an evaluation.", show_default=False)]


def review(
    folder: Folder,
    out: Out = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="The scans; a run has its own.", show_default=False)
    ] = None,
    reference: Masks = None,
    predicted: Masks = None,
    max_mb: Annotated[float, typer.Option("--max-mb", min=1, help="Size of the page.")] = 25.0,
    cases: Annotated[int, typer.Option("--cases", min=1, help="The worst so many cases.")] = 200,
    niivue: Annotated[
        list[str] | None,
        typer.Option(
            "--niivue", metavar="ID", help="Also a page of this case for niivue, with 3D.", show_default=False
        ),
    ] = None,
    is_opened: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open", help="Open it in a browser; else on a terminal.", show_default=False
        ),
    ] = None,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Build one HTML page to review cases in, worst first: no network, no other files.

    Example: `medseg review out/hippo`
    """
    with session("review", subject=str(folder), as_json=json, quiet=quiet, verbose=verbose) as report:
        from medseg.workflows.review import Sources, build

        progress = make_progress(quiet=quiet)
        page = build(
            Sources(folder, images, reference, predicted, find_key()),
            out or folder,
            max_mb=max_mb,
            max_cases=cases,
            niivue=niivue or (),
            progress=progress,
            report=report,
        )
        progress.say(f"page: {page} ({page.stat().st_size / 1e6:.1f} MB)")
        progress.say(summarise(report))
        if is_opened or (is_opened is None and sys.stdout.isatty() and not json):
            import webbrowser

            webbrowser.open(page.resolve().as_uri())
