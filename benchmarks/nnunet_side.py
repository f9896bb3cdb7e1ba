"""The peer's side of the ledger: nnU-Net v2 on the same cases, split and budget of CPU seconds.

own: its 3d_fullres trainer as it is, stopped where the budget ends. scaled: its recipe given every chance:
the patch that it plans, but a thinner network and a smaller batch, its poly schedule over the CPU seconds
there are, and its own variant without mirroring, which helps where front and back are the labels. Both are
predicted with its own predictor without mirroring; what medseg's evaluation costs is not counted. Half
precision (bf16), which its trainer uses on a GPU only, halves the cost of the scaled one, so it gets it too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calibration
import nnunet_env
from experiments import RECIPES, Experiment, Tree, pipeline_file
from medseg_side import Failed, environment, find_data, last_words, note_commit, read, read_evaluation, write
from preprocess import convert, nnunet_command
from process_tree import Meter

Goes = Callable[[], bool]

ENVIRONMENT = nnunet_env.DEFAULT
DATASET, CONFIGURATION = "Dataset004_Hippocampus", "3d_fullres"
CHILD = Path(__file__).with_name("nnunet_child.py")
LABELS = {"1": "anterior", "2": "posterior"}


def run(experiment: Experiment, work: Path, calibrations: Path, goes_on: Goes) -> Tree:
    """Run an experiment, or go on with it, and return its figures.

    Raises:
        Failed: A command ended with an error, or nnU-Net cannot be installed.
        Stopped: `goes_on` said no; the same call goes on later.
    """
    work.mkdir(parents=True, exist_ok=True)
    note_commit(work)
    try:
        programs = nnunet_env.ensure(ENVIRONMENT)
    except nnunet_env.NotInstallable as error:
        raise Failed(str(error)) from error
    cohort = prepare(programs, calibrations / "nnunet", goes_on)
    recipe = RECIPES[experiment.side]
    order = {
        "recipe": recipe,
        "plans": adapt(read(cohort / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"), recipe["plan"]),
        "dataset": read(cohort / "nnUNet_raw" / DATASET / "dataset.json"),
        "images": str(cohort / "nnUNet_raw" / DATASET / "imagesTr"),
        "held_out": read(cohort / "nnUNet_preprocessed" / DATASET / "splits_final.json")[experiment.fold][
            "val"
        ],
        "budget_cpu_s": experiment.budget_cpu_s * calibration.AIM,
        "seed": experiment.seed,
        "fold": experiment.fold,
        "threads": experiment.threads,
        "work": str(work),
    }
    write(work / "order.json", order)
    meter = Meter(work / "cpu.json")
    preparation = read(cohort / "cpu.json")["cpu_s"]
    meter.reap()
    command = [str(programs / "python"), str(CHILD), str(work / "order.json"), str(preparation + meter.cpu_s)]
    its_own = {**environment(experiment.threads, work), **folders(cohort), "nnUNet_n_proc_DA": "0"}
    its_own["nnUNet_results"] = str(work / "results")
    call(meter, command, its_own, work, goes_on)
    done = read(work / "done.json")
    return {
        "iterations": done["iterations"],
        "iteration_cpu_s": round(done["train_cpu_s"] / max(1, done["iterations"]), 4),
        "cpu_s": round(preparation + meter.cpu_s, 1),
        "train_cpu_s": round(done["train_cpu_s"], 1),
        "wall_s": round(meter.state["wall_s"], 1),
        "sessions": meter.state["sessions"],
        **evaluate(experiment, order["held_out"], work),
        "curve": [],
    }


def folders(cohort: Path) -> dict[str, str]:
    """Return nnU-Net's three folders as environment variables."""
    return {name: str(cohort / name) for name in nnunet_env.FOLDERS} | {"nnUNet_compile": "f"}


def prepare(programs: Path, cohort: Path, goes_on: Goes) -> Path:
    """Convert, plan and preprocess the cohort once, with medseg's split; every run is charged for it."""
    cohort.mkdir(parents=True, exist_ok=True)
    if (cohort / "ready").exists():
        return cohort
    data = find_data("hippocampus_mr")
    raw = cohort / "nnUNet_raw" / DATASET
    if not (raw / "dataset.json").exists():
        convert(data, raw)
    meter = Meter(cohort / "cpu.json")
    call(meter, nnunet_command(programs), {**environment(1, cohort), **folders(cohort)}, cohort, goes_on)
    ours = Experiment("split", 0)
    settings = [word for setting in ours.overrides() for word in ("--set", setting)]
    plan = [
        "plan",
        str(pipeline_file(ours.pipeline)),
        "--data",
        str(data),
        "-o",
        str(cohort / "medseg"),
        "-q",
    ]
    split = Meter(cohort / "split-cpu.json")
    call(split, [sys.executable, "-m", "medseg", *plan, *settings], environment(1, cohort), cohort, goes_on)
    write(
        cohort / "nnUNet_preprocessed" / DATASET / "splits_final.json",
        to_splits(read(cohort / "medseg/splits.json")),
    )
    (cohort / "ready").touch()
    return cohort


def to_splits(splits: Tree) -> list[dict[str, list[str]]]:
    """Return medseg's folds as nnU-Net wants them."""
    everyone = sorted(case for fold in splits["folds"] for case in fold)
    return [
        {"train": [case for case in everyone if case not in fold], "val": list(fold)}
        for fold in splits["folds"]
    ]


def adapt(plans: Tree, changes: Tree) -> Tree:
    """Return plans with a thinner network of as many levels as `features`, and another batch size."""
    if not changes:
        return plans
    plans = json.loads(json.dumps(plans))
    configuration = plans["configurations"][CONFIGURATION]
    configuration["batch_size"] = changes["batch_size"]
    levels = len(changes["features"])
    network = configuration["architecture"]["arch_kwargs"]
    network |= {"n_stages": levels, "features_per_stage": changes["features"]}
    for key, count in {"kernel_sizes": levels, "strides": levels, "n_conv_per_stage": levels}.items():
        network[key] = network[key][:count]
    network["n_conv_per_stage_decoder"] = network["n_conv_per_stage_decoder"][: levels - 1]
    return plans


def call(meter: Meter, command: list[str], env: dict[str, str], work: Path, goes_on: Goes) -> None:
    """Run a command to its end.

    Raises:
        Failed: With its last words.
        Stopped: See `run`.
    """
    if status := meter.run(command, env, work / "log.txt", watch=goes_on):
        raise Failed(f"{Path(command[0]).name} ended with {status}: {last_words(work / 'log.txt')}")


def evaluate(experiment: Experiment, held_out: list[str], work: Path) -> dict[str, Any]:
    """Return Dice by case and label, and its mean, as medseg evaluates masks."""
    references = work / "references"
    references.mkdir(exist_ok=True)
    for case in held_out:
        link, source = references / f"{case}.nii.gz", find_data(experiment.pipeline) / "labelsTr"
        if not link.exists():
            link.symlink_to(source / link.name)
    command = [sys.executable, "-m", "medseg", "evaluate", str(references), str(work / "masks"), "-q"]
    meter = Meter(work / "evaluation-cpu.json")
    call(meter, [*command, "-o", str(work / "evaluation")], environment(1, work), work, lambda: True)
    cases, mean = read_evaluation(work / "evaluation")
    named = {case: {LABELS[label]: dice for label, dice in row.items()} for case, row in cases.items()}
    return {"mean_dice": mean, "dice": named}
