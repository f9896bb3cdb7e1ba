"""The command line: options -> config -> one workflow. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from medseg import __version__
from medseg.cli import (
    cohort,
    compare,
    compare_configs,
    deidentify,
    dicom,
    doctor,
    evaluate,
    export,
    infer,
    listing,
    phantom,
    promote,
    review,
    run,
    stats,
    tracking,
    ui,
)
from medseg.cli.session import STARTED, print_usage_error

app = typer.Typer(
    name="medseg",
    help="Medical image segmentation, from a labelled cohort to reviewed masks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"medseg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(cohort.check)
app.command()(cohort.plan)
app.command()(cohort.preprocess)
app.command()(run.train)
app.command()(run.run)
app.command()(infer.infer)
app.command()(evaluate.evaluate)
app.command()(stats.stats)
app.command()(review.review)
app.command()(export.export)
app.command()(export.verify)
app.command()(compare.compare)
app.command("compare-configs")(compare_configs.compare_configs)
app.command()(dicom.inspect)
app.command()(dicom.convert)
app.command("to-dicom")(dicom.to_dicom)
app.command()(deidentify.deidentify)
app.command()(phantom.phantom)
app.command("list")(listing.list_entries)
app.add_typer(listing.config_app, name="config")
app.command()(promote.promote)
app.command()(ui.ui)
app.add_typer(tracking.tracking_app, name="tracking")
app.command()(doctor.doctor)


def main() -> None:
    """Run the command line; with --json a wrong call prints a document, too."""
    try:
        app()
    except SystemExit as stop:
        if stop.code == 2 and "--json" in sys.argv and not STARTED:
            print_usage_error()
        raise
