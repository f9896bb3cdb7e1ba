"""compare-configs: which of several configurations is best on held-out cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli import options as o
from medseg.cli.cohort import resolve_config
from medseg.cli.dicom import find_key
from medseg.cli.run import parse_folds
from medseg.cli.session import make_progress, session, summarise
from medseg.core.errors import ConfigError

if TYPE_CHECKING:
    from medseg.workflows.progress import Progress
    from medseg.workflows.report import Report
    from medseg.workflows.run_folder import RunFolder


def compare_configs(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...|PIPELINE",
            help="Finished run folders; or, with --data, a pipeline to train with each of --configs.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Output folder; --data needs one.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Labelled cohort to train on.", show_default=False)
    ] = None,
    configs: Annotated[
        list[Path] | None,
        typer.Option("--configs", metavar="A.yaml B.yaml ...", help="YAML files.", show_default=False),
    ] = None,
    fold: o.Fold = "all",
    set_: o.Settings = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    device: o.Device = None,
    memory_gb: o.MemoryGb = None,
    tracking: o.Tracking = True,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Compare configurations on the cases that each held out, paired by case, with an interval.

    Names a winner only where its gain over every other one is shown; else the cheapest of those not shown to
    be worse. Runs must share cohort, splits and labels. With --data it trains them first, into OUT/NAME.

    Example: `medseg compare-configs out/unet out/deeplab -o out/comparison`

    Example: `medseg compare-configs hippocampus_mr --data cohort -o out/cmp --configs a.yaml b.yaml`
    """
    with session(
        "compare-configs",
        subject=subjects[0],
        as_json=json,
        quiet=quiet,
        verbose=verbose,
        is_tracked=tracking,
    ) as report:
        progress = make_progress(quiet=quiet)
        settings = o.common(None, device, memory_gb, set_)
        # A shell hands on `--configs a b` as --configs a and one more argument.
        files = [*(configs or []), *map(Path, subjects[1:])] if data else []
        if data and out:
            runs = _train(
                subjects[0],
                files,
                settings,
                data,
                out,
                fold=fold,
                tracking=tracking,
                progress=progress,
                report=report,
            )
        elif data or configs or settings:
            raise ConfigError(
                "training needs --data, --configs and -o", hint="or give finished run folders alone"
            )
        else:
            from medseg.workflows.run_folder import RunFolder

            runs = [RunFolder(Path(subject)) for subject in subjects]
        from medseg.workflows.compare_configs import compare_configs as work

        work(runs, seed=seed, progress=progress, report=report, out=out)
        progress.say(summarise(report))


def _train(
    pipeline: str,
    files: list[Path],
    settings: list[str],
    data: Path,
    out: Path,
    *,
    fold: str,
    tracking: bool,
    progress: Progress,
    report: Report,
) -> list[RunFolder]:
    names = [file.stem for file in files]
    if len(set(names)) < max(2, len(names)):
        raise ConfigError("--configs needs two or more files of different names", hint="a.yaml b.yaml")
    resolved = {
        name: resolve_config(pipeline, file, settings) for name, file in zip(names, files, strict=True)
    }
    folds = parse_folds(fold, next(iter(resolved.values())).split.folds)
    from medseg.workflows.compare_configs import train_configs
    from medseg.workflows.train import select_all

    for config in resolved.values():
        select_all(config)  # a wrong name is refused before anything is trained
    return train_configs(
        resolved,
        data,
        out,
        folds=folds,
        progress=progress,
        report=report,
        is_tracked=tracking,
        key_file=find_key(),
    )
