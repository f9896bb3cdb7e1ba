"""stats: what masks hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.session import make_progress, session, summarise


def stats(
    masks: Annotated[Path, typer.Argument(help="Folder or file of masks.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where stats.csv and .json go.", show_default=False)
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder or file of the images, for intensities.", show_default=False),
    ] = None,
    channel: Annotated[int, typer.Option("--channel", min=0, help="Channel of the images.")] = 0,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Such as 1,2 or 1=organ,2=lesion.", show_default=False)
    ] = None,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Measure masks of any tool: volumes in ml, components, boxes, surfaces, positions, intensities.

    Example: `medseg stats out/masks --images scans --labels 1=organ,2=lesion -o out/stats`
    """
    with session("stats", subject=str(masks), as_json=json, quiet=quiet, verbose=verbose) as report:
        from medseg.workflows.stats import find_files, find_images, measure_masks

        progress = make_progress(quiet=quiet)
        names = o.parse_labels(labels) if labels else None
        found = find_files(masks, "masks")
        scans = find_images(images, channel) if images else None
        if scans and masks.is_file() and len(scans) == 1:
            scans = dict(zip(found, scans.values(), strict=True))  # two files belong together by being given
        measure_masks(
            found, progress=progress, report=report, images=scans, channel=channel, names=names, out=out
        )
        progress.say(summarise(report))
