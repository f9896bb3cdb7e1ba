"""infer: masks for new scans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli import options as o
from medseg.cli.dicom import (
    AllowResampleZ,
    AllowTilt,
    SeriesChoice,
    SliceThickness,
    VolumeChoice,
    check_thickness,
    find_key,
)
from medseg.cli.session import make_progress, session, summarise

if TYPE_CHECKING:
    from medseg.data.studies import Wanted
    from medseg.workflows.progress import Progress
    from medseg.workflows.report import Report


def infer(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="Images, folders of images, patients or DICOM, or a table.",
            show_default=False,
        ),
    ],
    model: Annotated[
        Path, typer.Option("--model", "-m", help="A run folder or its model folder.", show_default=False)
    ],
    out: o.Out,
    format_: Annotated[
        str, typer.Option("--format", help="nifti, dicom-seg, rtstruct, or several: nifti,dicom-seg.")
    ] = "nifti",
    series: SeriesChoice = None,
    volume: VolumeChoice = None,
    allow_tilt: AllowTilt = False,
    allow_resample_z: AllowResampleZ = False,
    slice_thickness: SliceThickness = None,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also write ID_prob.nii.gz.")
    ] = False,
    device: o.Device = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend", help="torch, openvino, onnxruntime, or auto: the fastest for one window, measured."
        ),
    ] = "torch",
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
        check_thickness(slice_thickness)
        from medseg.data.studies import Wanted

        wanted = Wanted(series, volume, allow_tilt, allow_resample_z, slice_thickness)
        progress = make_progress(quiet=quiet)
        if dry_run:
            announce(inputs, model, out, wanted, report, progress)
            return
        from medseg.workflows.infer import infer as work
        from medseg.workflows.outputs import FORMATS
        from medseg.workflows.to_dicom import parse_names

        work(
            inputs,
            model,
            out,
            progress=progress,
            report=report,
            key_file=find_key(),
            is_pseudonymous=pseudonymize,
            wanted=wanted,
            formats=parse_names(format_, FORMATS),
            save_probabilities=save_probabilities,
            device=device or "auto",
            backend=backend,
            threads=threads,
            trust_code=trust_code,
        )
        progress.say(summarise(report))


def announce(
    inputs: list[Path], model: Path, out: Path, wanted: Wanted, report: Report, progress: Progress
) -> None:
    """Say what a dry run would do, and which cases it would refuse."""
    from medseg.core.files import read_json
    from medseg.data.cases import peek_key
    from medseg.data.inputs import find_inputs
    from medseg.data.settings import Data
    from medseg.inference.model import find_model
    from medseg.workflows.report import CaseResult

    data = Data.model_validate(read_json(find_model(model) / "model.json")["data"])
    key = peek_key(find_key())
    cases = find_inputs(inputs, data, lambda: key, wanted)
    for case in cases:
        if case.error is not None:
            report.add(CaseResult.of_error(case.id, case.error))
    report.extra["dry_run"] = {"cases": len(cases)}
    progress.say(f"dry run: {len(cases) - len(report.cases)} masks would be written below {out}")
