"""check, plan, preprocess: from a labelled cohort to the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli import options as o
from medseg.cli.dicom import find_key
from medseg.cli.session import make_progress, session, summarise
from medseg.config import Config

if TYPE_CHECKING:
    from medseg.workflows.progress import Progress
    from medseg.workflows.report import Report


def resolve_config(pipeline: str, config: Path | None, settings: list[str]) -> Config:
    """Return the resolved config of a command."""
    from medseg.config.layers import resolve
    from medseg.config.pipelines import find_pipeline

    return resolve(find_pipeline(pipeline), config, settings)


def check(
    pipeline: o.Pipeline,
    data: o.DataFolder,
    out: o.Out,
    config: o.ConfigFile = None,
    set_: o.Settings = None,
    seed: o.Seed = None,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
    pseudonymize: o.Pseudonymize = False,
) -> None:
    """Look at every case once and say which are usable, and why the others are not.

    Example: `medseg check hippocampus_mr --data Task04_Hippocampus -o out/hippo`
    """
    with session("check", subject=str(data), as_json=json, quiet=quiet, verbose=verbose) as report:
        resolved = resolve_config(pipeline, config, o.common(seed, None, None, set_))
        from medseg.workflows.check import check as work
        from medseg.workflows.parallel import Workers
        from medseg.workflows.run_folder import RunFolder

        run = RunFolder(out)
        progress = make_progress(quiet=quiet)
        with run.locked(), Workers(resolved.workers) as workers:
            run.settle_config(resolved)
            work(
                resolved,
                data,
                run,
                progress=progress,
                report=report,
                workers=workers,
                key_file=find_key(),
                is_pseudonymous=pseudonymize,
            )
        progress.say(summarise(report))


def plan(
    pipeline: o.Pipeline,
    data: o.DataFolder,
    out: o.Out,
    config: o.ConfigFile = None,
    set_: o.Settings = None,
    seed: o.Seed = None,
    device: o.Device = None,
    memory_gb: o.MemoryGb = None,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
    pseudonymize: o.Pseudonymize = False,
) -> None:
    """Decide grid, patch, batch and intensities, each with its reason.

    Example: `medseg plan hippocampus_mr --data Task04_Hippocampus -o out/hippo`
    """
    with session("plan", subject=str(data), as_json=json, quiet=quiet, verbose=verbose) as report:
        resolved = resolve_config(pipeline, config, o.common(seed, device, memory_gb, set_))
        from medseg.workflows.check import check as look
        from medseg.workflows.parallel import Workers
        from medseg.workflows.preprocess import plan_run
        from medseg.workflows.run_folder import RunFolder

        run = RunFolder(out)
        progress = make_progress(quiet=quiet)
        with run.locked(), Workers(resolved.workers) as workers:
            run.settle_config(resolved)
            cohort = look(
                resolved,
                data,
                run,
                progress=progress,
                report=report,
                workers=workers,
                key_file=find_key(),
                is_pseudonymous=pseudonymize,
            )
            decided = plan_run(resolved, cohort, run, progress=progress)
            report.extra["plan"] = decided.to_json()
            report.write(out / "report.json")
        for name, reason in decided.reasons.items():
            progress.say(f"{name} = {getattr(decided, name)}: {reason}")
        progress.say(summarise(report))


def preprocess(
    pipeline: o.Pipeline,
    data: o.DataFolder,
    out: o.Out,
    config: o.ConfigFile = None,
    set_: o.Settings = None,
    seed: o.Seed = None,
    device: o.Device = None,
    memory_gb: o.MemoryGb = None,
    json: o.Json = False,
    dry_run: o.DryRun = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
    pseudonymize: o.Pseudonymize = False,
) -> None:
    """Check, plan, and bring every usable case to the plan's grid and intensities.

    Example: `medseg preprocess hippocampus_mr --data Task04_Hippocampus -o out/hippo`
    """
    with session("preprocess", subject=str(data), as_json=json, quiet=quiet, verbose=verbose) as report:
        resolved = resolve_config(pipeline, config, o.common(seed, device, memory_gb, set_))
        progress = make_progress(quiet=quiet)
        if dry_run:
            announce(resolved, data, out, report, progress)
            return
        from medseg.workflows.parallel import Workers
        from medseg.workflows.preprocess import preprocess as work
        from medseg.workflows.run_folder import RunFolder

        run = RunFolder(out)
        with run.locked(), Workers(resolved.workers) as workers:
            run.settle_config(resolved)
            work(
                resolved,
                data,
                run,
                progress=progress,
                report=report,
                workers=workers,
                key_file=find_key(),
                is_pseudonymous=pseudonymize,
            )
            report.write(out / "report.json")
        progress.say(summarise(report))


def announce(config: Config, data: Path, out: Path, report: Report, progress: Progress) -> None:
    """Say what a dry run would do."""
    from medseg.data.cases import peek_key
    from medseg.data.layouts import find_cohort

    key = peek_key(find_key())
    layout, cases = find_cohort(data, config.data, lambda: key)
    report.extra["dry_run"] = {"layout": layout, "cases": len(cases), "pipeline": config.name}
    progress.say(f"dry run: {len(cases)} cases (layout {layout}) would be written below {out}")
