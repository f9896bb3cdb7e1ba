"""export and verify: models that leave, and whether what lies here is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.session import make_progress, session, summarise


def export(
    model: Annotated[
        Path, typer.Option("--model", "-m", help="A run folder or its model folder.", show_default=False)
    ],
    to: Annotated[str, typer.Option("--to", help="onnx, openvino or torchscript.", show_default=False)],
    out: o.Out,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Let the model use code from outside medseg.")
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a model as a folder that runs without medseg: networks, pipeline.json and run.py.

    Example: `medseg export -m out/hippo --to onnx -o out/hippo-onnx`
    """
    with session("export", subject=str(model), as_json=json, quiet=quiet) as report:
        from medseg.workflows.export import export as work

        work(model, to, out, report=report, trust_code=trust_code)
        make_progress(quiet=quiet).say(summarise(report))


def verify(
    path: Annotated[
        Path, typer.Argument(help="A model, an export, a folder of masks, or one mask.", show_default=False)
    ],
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Compare files with the checksums that were written with them; exit 3 where one differs.

    Example: `medseg verify out/masks`
    """
    with session("verify", subject=str(path), as_json=json, quiet=quiet) as report:
        from medseg.workflows.verify import verify as work

        work(path, report)
        if not json and not quiet:
            for case in report.cases:
                print(f"{'bad' if case.code else 'ok '} {case.id}")
