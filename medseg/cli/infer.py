"""infer: masks for new scans."""

from __future__ import annotations

from dataclasses import dataclass
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
    from medseg.workflows.shard import Shard


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
        Path,
        typer.Option(
            "--model", "-m", help="A run, its model folder, an nnU-Net results folder or a MONAI bundle."
        ),
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
    save_uncertainty: Annotated[
        bool,
        typer.Option("--save-uncertainty", help="Also write ID_entropy.nii.gz and ID_disagreement.nii.gz."),
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
    memory_gb: o.MemoryGb = None,
    mode: Annotated[
        str, typer.Option("--mode", help="exact: as the model says; fast; accurate. See docs/inference.md.")
    ] = "exact",
    folds: Annotated[
        str | None,
        typer.Option("--folds", metavar="0,2", help="Only the networks of these folds.", show_default=False),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Only the I-th of N parts of the cases.", show_default=False
        ),
    ] = None,
    tracking: o.Tracking = False,
    json: o.Json = False,
    dry_run: o.DryRun = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
    pseudonymize: o.Pseudonymize = False,
) -> None:
    """Segment scans; each mask lies exactly on its scan's grid. Cases already done are skipped.

    Example: `medseg infer scans/ -m out/hippo -o out/masks`
    """
    with session(
        "infer", subject=str(inputs[0]), as_json=json, quiet=quiet, verbose=verbose, is_tracked=tracking
    ) as report:
        check_thickness(slice_thickness)
        from medseg.data.studies import Wanted
        from medseg.workflows.shard import parse_folds, parse_shard

        wanted = Wanted(series, volume, allow_tilt, allow_resample_z, slice_thickness)
        progress, part, chosen = make_progress(quiet=quiet), parse_shard(shard), parse_folds(folds)
        if dry_run:
            machine = Machine(
                device,
                threads,
                memory_gb,
                trust_code,
                mode,
                chosen,
                part,
                backend,
                save_uncertainty,
                save_probabilities,
            )
            announce(inputs, model, out, wanted, report, progress, machine)
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
            save_uncertainty=save_uncertainty,
            device=device or "auto",
            backend=backend,
            threads=threads,
            trust_code=trust_code,
            memory_gb=memory_gb,
            mode=mode,
            folds=chosen,
            shard=part,
            is_tracked=tracking,
            tell=progress.say if verbose else None,
        )
        progress.say(summarise(report))


@dataclass(frozen=True)
class Machine:
    """What a dry run needs to know to forecast memory."""

    device: str | None
    threads: int | None
    memory_gb: float | None
    trust_code: bool
    mode: str
    folds: list[int] | None
    shard: Shard
    backend: str
    save_uncertainty: bool
    save_probabilities: bool


def announce(
    inputs: list[Path],
    model_path: Path,
    out: Path,
    wanted: Wanted,
    report: Report,
    progress: Progress,
    machine: Machine,
) -> None:
    """Say what a dry run would do, how much memory each case takes, and which cases it would refuse."""
    import torch

    from medseg.core.errors import DataError, ResourceError
    from medseg.data.cases import peek_key
    from medseg.data.inputs import find_inputs
    from medseg.inference.model import load_model
    from medseg.inference.modes import apply_mode
    from medseg.inference.network import choose_device
    from medseg.workflows.foresight import Foresight
    from medseg.workflows.infer import make_segmenter, may_overlap, raise_if_too_large
    from medseg.workflows.machine import count_cores
    from medseg.workflows.report import CaseResult

    device = choose_device(machine.device or "auto")
    torch.set_num_threads(machine.threads or count_cores())
    loaded = load_model(model_path, device, machine.folds, trust_code=machine.trust_code)
    model, _ = apply_mode(loaded, machine.mode)
    key = peek_key(find_key())
    cases = machine.shard.take(find_inputs(inputs, model.data, lambda: key, wanted))
    segmenter = make_segmenter(model, machine.backend, cases, save_uncertainty=machine.save_uncertainty)
    foresee = Foresight(
        segmenter,
        machine.memory_gb,
        progress.say,
        overlaps=may_overlap(segmenter),
        has_maps=machine.save_uncertainty,
        has_probabilities=machine.save_probabilities,
    )
    forecasts = {}
    for before, case, after in zip([None, *cases], cases, [*cases[1:], None]):
        try:
            forecasts[case.id] = round(foresee(case, before, after).peak_mb)
        except DataError as error:
            report.add(CaseResult.of_error(case.id, error))
        except ResourceError as error:
            report.add(CaseResult.of_error(case.id, error, "failed"))
    report.extra["dry_run"] = {"cases": len(cases), "peak_mb": forecasts}
    progress.say(f"dry run: {len(cases) - len(report.cases)} masks would be written below {out}")
    raise_if_too_large(report)
