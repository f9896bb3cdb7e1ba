"""train and run: from the store, or from the cohort, to an evaluated model in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli import options as o
from medseg.cli.cohort import announce, resolve_config
from medseg.cli.dicom import find_key
from medseg.cli.session import make_progress, say_mlflow, session, summarise
from medseg.core.errors import ConfigError

if TYPE_CHECKING:
    from medseg.workflows.progress import Progress
    from medseg.workflows.report import Report


def run(
    pipeline: o.Pipeline,
    data: o.DataFolder,
    out: o.Out,
    fold: o.Fold = "0",
    max_minutes: o.MaxMinutes = None,
    auto_shrink: o.AutoShrink = False,
    config: o.ConfigFile = None,
    set_: o.Settings = None,
    seed: o.Seed = None,
    device: o.Device = None,
    memory_gb: o.MemoryGb = None,
    tracking: o.Tracking = True,
    json: o.Json = False,
    dry_run: o.DryRun = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
    pseudonymize: o.Pseudonymize = False,
) -> None:
    """Check, plan, preprocess, train, infer and evaluate; killed at any moment, the same command goes on.

    Example: `medseg run hippocampus_mr --data Task04_Hippocampus -o out/hippo`
    """
    with session(
        "run", subject=str(data), as_json=json, quiet=quiet, verbose=verbose, is_tracked=tracking
    ) as report:
        resolved = resolve_config(pipeline, config, o.common(seed, device, memory_gb, set_))
        progress = make_progress(quiet=quiet)
        folds = parse_folds(fold, resolved.split.folds)
        if dry_run:
            announce(resolved, data, out, report, progress)
            return
        from medseg.workflows.run import run as work
        from medseg.workflows.run_folder import RunFolder
        from medseg.workflows.train import select_all

        select_all(resolved)  # a wrong name is refused before it is stored
        folder = RunFolder(out)
        with folder.locked():
            folder.settle_config(resolved)
            work(
                resolved,
                data,
                folder,
                folds=folds,
                progress=progress,
                report=report,
                max_minutes=max_minutes,
                auto_shrink=auto_shrink,
                is_tracked=tracking,
                key_file=find_key(),
                is_pseudonymous=pseudonymize,
            )
        show_results(report, out, progress)


def train(
    run: Annotated[
        Path, typer.Argument(help="A run folder made by `medseg preprocess`.", show_default=False)
    ],
    fold: o.Fold = "0",
    max_minutes: o.MaxMinutes = None,
    auto_shrink: o.AutoShrink = False,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", help="Start from a model's weights.", show_default=False)
    ] = None,
    tracking: o.Tracking = True,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Train on a preprocessed run; pipeline and data are known from it.

    Example: `medseg train out/hippo --fold all`
    """
    with session(
        "train", subject=str(run), as_json=json, quiet=quiet, verbose=verbose, is_tracked=tracking
    ) as report:
        from medseg.workflows.run_folder import RunFolder

        folder = RunFolder(run)
        config = folder.load_config()
        folds = parse_folds(fold, config.split.folds)
        from medseg.workflows.run import train_and_evaluate
        from medseg.workflows.train import select_all

        select_all(config)
        progress = make_progress(quiet=quiet)
        with folder.locked():
            train_and_evaluate(
                config,
                folder,
                folds=folds,
                progress=progress,
                report=report,
                max_minutes=max_minutes,
                init_from=init_from,
                auto_shrink=auto_shrink,
                is_tracked=tracking,
            )
        if "metrics" in report.extra:
            show_results(report, run, progress)


def parse_folds(text: str, count: int) -> list[int]:
    """Return the folds that `--fold` names.

    Raises:
        ConfigError: Not a number or not one of the folds.
    """
    if text == "all":
        return list(range(count))
    if not text.isdigit() or int(text) >= count:
        raise ConfigError(
            f"there is no fold `{text}`", hint=f"give 0 to {count - 1}, or all", code="UNKNOWN_FOLD"
        )
    return [int(text)]


def show_results(report: Report, out: Path, progress: Progress) -> None:
    """Say how good it is and where to look."""
    metrics = report.extra["metrics"]
    for label, row in metrics["labels"].items():
        progress.say(
            f"label {label} {row['name']}: Dice {_show(row['dice'])}, HD95 {_show(row['hd95_mm'])} mm, "
            f"NSD {_show(row['nsd'])} (n {row['n']}, missed {row['n_missed']}, spurious {row['n_spurious']})"
        )
    mean = metrics["mean"]
    progress.say(f"mean Dice {_show(mean.get('dice'))} (standard error {_show(mean.get('dice_se'))})")
    progress.say(summarise(report))
    progress.say(f"model: {out / 'model'}")
    progress.say(f"review: {out / 'review.html'}  (open it in a browser)")
    say_mlflow(report, progress)


def _show(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
