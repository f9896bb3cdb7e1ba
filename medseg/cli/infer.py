"""infer: masks for new scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.cohort import key_file
from medseg.cli.session import make_progress, session, summarise


def infer(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...", help="Images, folders of images or patients, or a table.", show_default=False
        ),
    ],
    model: Annotated[
        Path, typer.Option("--model", "-m", help="A run folder or its model folder.", show_default=False)
    ],
    out: o.Out,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also write <id>_prob.nii.gz.")
    ] = False,
    device: o.Device = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads.", show_default=False)
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Let the model use code from outside medseg.")
    ] = False,
    json: o.Json = False,
    dry_run: o.DryRun = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
    pseudonymize: o.Pseudonymize = False,
) -> None:
    """Segment scans; each mask lies exactly on its scan's grid. Cases already done are skipped.

    Example: `medseg infer scans/ -m out/hippo -o out/masks`
    """
    with session("infer", subject=str(inputs[0]), as_json=json, quiet=quiet, verbose=verbose) as report:
        progress = make_progress(quiet=quiet)
        if dry_run:
            from medseg.core.files import read_json
            from medseg.data.inputs import find_inputs
            from medseg.data.settings import Data
            from medseg.inference.model import find_model

            data = Data.model_validate(read_json(find_model(model) / "model.json")["data"])
            cases = find_inputs(inputs, data)
            report.extra["dry_run"] = {"cases": len(cases)}
            progress.say(f"dry run: {len(cases)} masks would be written below {out}")
            return
        from medseg.workflows.infer import infer as work

        work(
            inputs,
            model,
            out,
            progress=progress,
            report=report,
            device=device or "auto",
            threads=threads,
            save_probabilities=save_probabilities,
            trust_code=trust_code,
            key_file=key_file(pseudonymize),
        )
        progress.say(summarise(report))
