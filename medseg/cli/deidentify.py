"""deidentify: DICOM files that may leave the house."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli import options as o
from medseg.cli.dicom import find_key
from medseg.cli.session import make_progress, session, summarise
from medseg.core.errors import ConfigError

if TYPE_CHECKING:
    from medseg.workflows.progress import Progress
    from medseg.workflows.report import Report


def deidentify(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder of DICOM files, or one file.", show_default=False)
    ],
    out: o.Out,
    dates: Annotated[
        str,
        typer.Option(
            "--dates", metavar="remove|shift", help="Remove dates, or shift each patient's by secret days."
        ),
    ] = "remove",
    keep_device: Annotated[
        bool, typer.Option("--keep-device", help="Keep station names and serial numbers of devices.")
    ] = False,
    allow_burned_in: Annotated[
        bool, typer.Option("--allow-burned-in", help="Also write pictures that may show a name.")
    ] = False,
    json: o.Json = False,
    dry_run: o.DryRun = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Copy DICOM files without what tells whose they are (PS3.15 Annex E, Basic Profile).

    Pseudonyms and UIDs come from this site's key: the same on every run, so references stay whole. Pixels and
    geometry stay as they are.

    Example: `medseg deidentify export/ -o out/deidentified --dates shift`
    """
    with session("deidentify", subject=str(source), as_json=json, quiet=quiet, verbose=verbose) as report:
        from medseg.core.select import suggest
        from medseg.io.dicom.deidentify.profile import DATE_CHOICES, Policy

        if dates not in DATE_CHOICES:
            hint = suggest(dates, DATE_CHOICES)
            raise ConfigError(f"--dates cannot be `{dates}`", hint=hint, code="UNKNOWN_NAME")
        progress = make_progress(quiet=quiet)
        if dry_run:
            announce(source, out, report, progress)
            return
        from medseg.workflows.deidentify import deidentify as work

        policy = Policy(dates, keep_device, allow_burned_in)
        work(source, out, policy, progress=progress, report=report, key_file=find_key())
        progress.say(summarise(report))


def announce(source: Path, out: Path, report: Report, progress: Progress) -> None:
    """Say what a dry run found; which pictures may show a name, only their whole headers tell."""
    from medseg.io.dicom.deidentify.pseudonyms import Pseudonyms
    from medseg.workflows.deidentify import find_files, refuse_overlap

    refuse_overlap(source, out)
    found = find_files(source, Pseudonyms(b""))  # nothing is named by it: a dry run leaves no key behind
    counts = {"files": found.files, "series": len(found.series)}
    report.extra["dry_run"] = {**counts, "damaged": len(found.damaged), "not_dicom": found.others}
    progress.say(f"dry run: {found.files} files of {len(found.series)} series would be written below {out}")
