"""Our side of the ledger: `medseg run` as a user types it, within a budget of CPU seconds."""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calibration
from experiments import DATA, ROOT, Experiment, Tree, find, hash_of, pipeline_file, resolve
from process_tree import Meter

Goes = Callable[[], bool]
SHORT = {"train.validate_every": calibration.EPOCHS}


class Failed(RuntimeError):  # noqa: N818  (reads as what happened)
    """A command ended with an error; its last words are the message."""


def run(experiment: Experiment, work: Path, calibrations: Path, goes_on: Goes) -> Tree:
    """Run an experiment, or go on with it, and return its figures.

    Raises:
        Failed: medseg ended with an error.
        BudgetTooSmall: Not one iteration fits.
        Stopped: `goes_on` said no; the same call goes on later.
    """
    work.mkdir(parents=True, exist_ok=True)
    plan = settle(experiment, work, calibrations, goes_on)
    lengths = {f"train.{key}": plan[key] for key in calibration.Schedule._fields}
    meter = call(experiment, work, lengths, goes_on)
    if not calibration.is_within(meter.cpu_s, experiment.budget_cpu_s):
        correct(experiment, calibrations, meter.cpu_s / experiment.budget_cpu_s)
    return {**plan_of(plan, meter), **figures(work / "run", experiment.fold, meter)}


def settle(experiment: Experiment, work: Path, calibrations: Path, goes_on: Goes) -> Tree:
    """Return schedule and planned costs, stored before they are used: a resumed run is the same run."""
    path = work / "schedule.json"
    if not path.exists():
        costs = calibrate(experiment, calibrations, goes_on)
        train = recipe_of(experiment)
        schedule = calibration.schedule_within(
            experiment.budget_cpu_s, costs, train.iterations_per_epoch, train.validate_every
        )
        write(path, calibration.to_json(costs, schedule))
    return read(path)


def recipe_of(experiment: Experiment) -> Any:
    """Return the training section of the resolved settings."""
    from medseg.config.layers import resolve as lay

    return lay(find(experiment.pipeline), None, experiment.overrides()).train


def calibration_folder(experiment: Experiment, calibrations: Path) -> Path:
    """Return the folder of a recipe's calibration on this machine."""
    config = {**resolve(experiment), "seed": None}
    return calibrations / hash_of([config, experiment.threads, cpu_model()])[:12]


def correct(experiment: Experiment, calibrations: Path, factor: float) -> None:
    """Raise what an iteration is thought to cost, after a run that used `factor` times its budget."""
    path = calibration_folder(experiment, calibrations) / "costs.json"
    costs = calibration.Costs(**read(path))
    write(path, costs._replace(iteration=costs.iteration * factor)._asdict())


def calibrate(experiment: Experiment, calibrations: Path, goes_on: Goes) -> calibration.Costs:
    """Return what the parts of a run cost here: from a short run, made once per recipe and machine."""
    work = calibration_folder(experiment, calibrations)
    iterations = min(calibration.ITERATIONS, recipe_of(experiment).iterations_per_epoch)
    if not (work / "costs.json").exists():
        Meter(work / "cpu.json").reap()
        shutil.rmtree(work, ignore_errors=True)  # going on with one would count its second start-up
        work.mkdir(parents=True)
        lengths = {"train.epochs": calibration.EPOCHS, "train.iterations_per_epoch": iterations, **SHORT}
        meter = call(experiment, work, lengths, goes_on, poll_s=0.05)
        marks = meter.state["marks"]
        write(work / "costs.json", calibration.costs_of(marks, meter.cpu_s, iterations)._asdict())
    return calibration.Costs(**read(work / "costs.json"))


def call(experiment: Experiment, work: Path, lengths: Tree, goes_on: Goes, *, poll_s: float = 0.25) -> Meter:
    """Run medseg to its end; epochs are marked as they appear in the history.

    Raises:
        Failed: With the last words.
        Stopped: See `run`.
    """
    settings = [*experiment.overrides(), *(f"{key}={value}" for key, value in lengths.items())]
    pipeline, data = str(pipeline_file(experiment.pipeline)), str(find_data(experiment.pipeline))
    command = [sys.executable, "-m", "medseg", "run", pipeline, "--data", data, "-o", str(work / "run")]
    command += ["--fold", str(experiment.fold), "--no-tracking", "-q"]
    command += [word for setting in settings for word in ("--set", setting)]
    meter, fold = Meter(work / "cpu.json"), work / "run" / f"fold_{experiment.fold}"

    def watch() -> bool:
        if fold.exists():
            meter.mark("train")
        for epoch in count_epochs(fold / "history.csv", meter):
            meter.mark(f"epoch {epoch}")
        return goes_on()

    note_commit(work)
    status = meter.run(
        command, environment(experiment.threads, work), work / "log.txt", watch=watch, poll_s=poll_s
    )
    if status:
        raise Failed(f"ended with {status}: {last_words(work / 'log.txt')}")
    return meter


def count_epochs(history: Path, meter: Meter) -> range:
    """Return the numbers of the epochs that are in the history and not marked."""
    known = sum(name.startswith("epoch ") for name in meter.state["marks"])
    if not history.exists():
        return range(0)
    rows = history.read_text().count("\n") - 1  # a header; the file is replaced as a whole
    return range(known + 1, rows + 1)


def environment(threads: int, work: Path) -> dict[str, str]:
    """Return the environment of a side's command; waiting threads sleep, since spinning is CPU time."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "MEDSEG_HOME": str(work / "home"),
        "PYTHONPATH": str(ROOT),
    }


def find_data(pipeline: str) -> Path:
    """Return the folder of a pipeline's cohort.

    Raises:
        Failed: MEDSEG_DATA does not lead to it.
    """
    folder = Path(os.environ.get("MEDSEG_DATA", ""), DATA[pipeline]).resolve()
    if "MEDSEG_DATA" not in os.environ or not folder.is_dir():
        raise Failed(f"set MEDSEG_DATA to the folder that holds {DATA[pipeline]}/")
    return folder


# ---- what is kept -------------------------------------------------------------------------------


def plan_of(plan: Tree, meter: Meter) -> Tree:
    """Return schedule and costs of a finished run."""
    marks = meter.state["marks"]
    return {
        "epochs": plan["epochs"],
        "iterations": plan["epochs"] * plan["iterations_per_epoch"],
        "iteration_cpu_s": round(plan["iteration"], 4),
        "cpu_s": round(meter.cpu_s, 1),
        "train_cpu_s": round(marks[f"epoch {plan['epochs']}"] - marks["train"], 1),
        "wall_s": round(meter.state["wall_s"], 1),
        "sessions": meter.state["sessions"],
    }


def figures(run: Path, fold: int, meter: Meter) -> Tree:
    """Return Dice by case and label, its mean, and the validation curve of a finished run folder."""
    cases, mean = read_evaluation(run / "evaluation")
    with (run / f"fold_{fold}" / "history.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("val/dice")]
    marks = meter.state["marks"]
    curve = [
        {
            "epoch": int(float(row["epoch"])),
            "cpu_s": marks[f"epoch {int(float(row['epoch']))}"],
            "dice": round(float(row["val/dice"]), 4),
        }
        for row in rows
    ]
    return {"mean_dice": mean, "dice": cases, "curve": curve}


def read_evaluation(folder: Path) -> tuple[dict[str, dict[str, float | None]], float]:
    """Return case -> label -> Dice (None where undefined), and the mean of the report."""
    cases: dict[str, dict[str, float | None]] = {}
    with (folder / "cases.csv").open() as stream:
        for row in csv.DictReader(stream):
            cases.setdefault(row["id"], {})[row["name"]] = float(row["dice"]) if row["dice"] else None
    return cases, float(read(folder / "metrics.json")["mean"]["dice"])


def machine(threads: int) -> Tree:
    """Return what the figures were measured on."""
    import torch

    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "bf16": bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Return the processor's name and numbers, as /proc/cpuinfo has them for the first core."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    info = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = info.get("model name", platform.machine())
    return f"{name} family {info.get('cpu family', '?')} model {info.get('model', '?')}"


def note_commit(work: Path) -> None:
    """Keep, beside the run, the commits it was run with; "+" where files differed from it."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    sources = ["medseg", "pipelines"]
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *sources], check=False).returncode
    path = work / "commits.json"
    known = read(path) if path.exists() else []
    name = commit.stdout.strip() + ("+" if changed else "")
    write(path, [*known, *([name] if name not in known else [])])


def last_words(log: Path) -> str:
    """Return the end of a log on one line."""
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-4:])


def read(path: Path) -> Any:
    """Return the JSON of a file."""
    return json.loads(path.read_text())


def write(path: Path, value: Any) -> None:
    """Write a JSON file, whole; an object has a line for each key."""
    text = json.dumps(value)
    if isinstance(value, dict):
        lines = (f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items())
        text = "{\n" + ",\n".join(lines) + "\n}"
    temporary = path.with_suffix(".part")
    temporary.write_text(text + "\n")
    temporary.replace(path)
