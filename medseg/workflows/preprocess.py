"""preprocess: check -> splits -> fingerprint -> plan -> store."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

from medseg.config import Config
from medseg.core.errors import ConfigError, DataError
from medseg.core.files import make_folder, sha256_of
from medseg.core.volume import Labels
from medseg.data.cases import Case
from medseg.data.checks import Record
from medseg.data.fingerprint import take_fingerprint
from medseg.data.loading import class_values, load_case, to_stored
from medseg.data.plan import Plan, make_plan
from medseg.data.preprocess import preprocess_classes, preprocess_image, preprocessing_key
from medseg.data.settings import Data
from medseg.data.splits import split_cohort
from medseg.data.store import is_stored, write_case
from medseg.workflows.check import Cohort, check
from medseg.workflows.parallel import Workers
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.run_folder import RunFolder

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def plan_run(config: Config, cohort: Cohort, run: RunFolder, *, progress: Progress) -> Plan:
    """Decide splits and plan from the usable cases and store both.

    Patch, batch and width are chosen by constants, so at once and the same anywhere; with `memory_gb`, or
    where a GPU leaves something to choose, by measuring (see `fit_plan`).

    Raises:
        ResourceError: MEMORY_PLAN.
    """
    splits = split_cohort(
        cohort.usable,
        folds=config.split.folds,
        seed=config.seed if config.split.seed is None else config.split.seed,
        test_share=config.split.test_share,
        test_ids=config.split.test_ids,
    )
    seen = [record for record in cohort.usable if record.id not in splits.test]
    device, memory_gb = find_device(config)
    fingerprint = take_fingerprint(seen)
    make = partial(
        make_plan,
        fingerprint,
        config.data,
        config.grid,
        device=device,
        memory_gb=memory_gb,
        rotate_degrees=config.augment.rotate_degrees,
    )
    plan = make()
    if config.memory_gb or (device == "cuda" and not (config.grid.patch and config.grid.batch_size)):
        from medseg.workflows.fit import fit_plan  # needs torch

        plan = fit_plan(
            config,
            lambda scale: make(scale=scale),
            (device, memory_gb),
            fingerprint.shape_at(plan.spacing_mm),
            run,
            progress=progress,
        )
    run.save_splits(splits)
    run.settle("plan.json", plan.to_json())
    return plan


def preprocess(
    config: Config,
    data: Path,
    run: RunFolder,
    *,
    progress: Progress,
    report: Report,
    workers: Workers,
    key_file: Path,
    is_pseudonymous: bool = False,
) -> Plan:
    """Bring every usable case into RUN/store; cases already there are skipped; see `check`.

    Raises:
        DataError: No case is usable.
        ConfigError: The data changed after training began.
    """
    cohort = check(
        config,
        data,
        run,
        progress=progress,
        report=report,
        workers=workers,
        key_file=key_file,
        is_pseudonymous=is_pseudonymous,
    )
    plan = plan_run(config, cohort, run, progress=progress)
    make_folder(run.store)
    usable = {record.id: record for record in cohort.usable}
    if run.is_trained:
        _refuse_changes(run, {name: _make_key(record, plan, config.data) for name, record in usable.items()})
    _remove_strangers(run, usable)
    work = partial(_preprocess_case, plan=plan, data=config.data, store=run.store)
    items = [(cohort.cases[name], record) for name, record in usable.items()]
    results = {result.id: result for result in report.cases}
    with progress.track("preprocess", len(items)) as advance:
        for _, result in workers.map(work, items, stage="preprocess", name=lambda item: item[0].id):
            result.warnings = results[result.id].warnings
            results[result.id] = result
            advance(result.id)
    report.cases[:] = results.values()
    return plan


def _preprocess_case(item: tuple[Case, Record], *, plan: Plan, data: Data, store: Path) -> CaseResult:
    case, record = item
    key = _make_key(record, plan, data)
    if is_stored(store, case.id, key):
        return CaseResult(case.id, "skipped")
    try:
        loaded = load_case(case, data)
    except DataError as error:  # it passed the check, so it changed since
        return CaseResult.of_error(case.id, error)
    if loaded.classes is None:
        return CaseResult(case.id, "rejected", "LABEL_MISSING", "the label file is gone")
    image, placement = preprocess_image(loaded.image, plan)
    classes = preprocess_classes(loaded.classes.array, placement)
    reference = Labels(to_stored(loaded.classes.array, data), loaded.image.geometry)
    write_case(store / case.id, key, (image, classes), placement, reference, case.images[0])
    return CaseResult(case.id, "done")


def _make_key(record: Record, plan: Plan, data: Data) -> str:
    """Hash all that a stored case depends on."""
    return sha256_of(
        [
            preprocessing_key(plan, class_values(data)),
            record.input_sha256,
            record.label_sha256,
            data.model_dump(mode="json", include={"label_map", "ignore_label"}, exclude_none=True),
        ]
    )


def _refuse_changes(run: RunFolder, keys: dict[str, str]) -> None:
    """Refuse other content of a case that a training has seen; a case that was lost may come back."""
    there = {name: key for name, key in keys.items() if (run.store / name / "case.json").exists()}
    changed = [name for name, key in there.items() if not is_stored(run.store, name, key)]
    if changed:
        raise ConfigError(
            f"{len(changed)} cases changed after training began: {', '.join(changed[:8])}",
            hint="use another output folder, or the old data",
            code="DATA_CHANGED",
        )


def _remove_strangers(run: RunFolder, usable: dict[str, Record]) -> None:
    """Delete stored cases that are no longer part of the cohort; `settle` guards trained runs."""
    for folder in run.store.iterdir():
        if folder.is_dir() and folder.name not in usable:
            shutil.rmtree(folder)


def find_device(config: Config) -> tuple[str, float]:
    """Return "cpu" or "cuda" and the memory to plan for, in GB; torch is imported only where a GPU is."""
    device = config.device
    if device == "auto":
        device = "cuda" if NVIDIA_DRIVER.exists() and _has_cuda() else "cpu"
    if config.memory_gb:
        return device, config.memory_gb
    if device == "cuda":
        import torch

        return device, float(torch.cuda.get_device_properties(0).total_memory / 2**30)
    return device, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
