"""The ledger: trainings within budgets of CPU seconds; each finished one is kept, so that figures add up.

    python benchmarks/ledger.py run [--only WORDS] [--max-minutes M]   work the queue, one at a time
    python benchmarks/ledger.py try NAME --budget S [--set K=V]        one experiment that no table asks for
    python benchmarks/ledger.py status [--only WORDS]                  what is finished, begun and missing
    python benchmarks/ledger.py report                                 write the tables of docs/benchmarks.md

`run` goes on where it was stopped or killed; work is below out/ledger, results are benchmarks/ledger/ID.json.
`--only` takes words that must all occur in an experiment's title (see `status`), table or id. The queue is in
experiments.py. Needs MEDSEG_DATA; the peer's runs also nnU-Net (nnunet_env.py).

Exit: 0 all asked for is finished, 1 some failed, 3 stopped before the end, 4 another ledger is at work.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import medseg_side
import nnunet_side
from calibration import BudgetTooSmall, is_within
from experiments import HIPPOCAMPUS, LINES, ROOT, Experiment, Tree, describe, hash_of, id_of, queue, unique
from medseg_side import Failed, read, write
from process_tree import Stopped

RESULTS = ROOT / "benchmarks" / "ledger"
WORK = ROOT / "out" / "ledger"
SCHEMA = 1


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="work the queue")
    runs.add_argument("--only", default="", metavar="WORDS")
    runs.add_argument("--redo-over", action="store_true", help="run again what was over its budget")
    runs.add_argument("--nnunet-env", type=Path, default=nnunet_side.ENVIRONMENT, metavar="DIR")
    tries = commands.add_parser("try", help="one experiment that no table asks for")
    tries.add_argument("name")
    tries.add_argument("--budget", type=int, required=True, metavar="S", help="CPU seconds")
    tries.add_argument("--set", action="append", default=[], metavar="K=V")
    tries.add_argument("--pipeline", default=HIPPOCAMPUS)
    tries.add_argument("--seed", type=int, default=0)
    tries.add_argument("--fold", type=int, default=0)
    tries.add_argument("--threads", type=int, default=1)
    for command in (runs, tries):
        command.add_argument("--max-minutes", type=float, metavar="M", help="of wall time, then stop")
    shows = commands.add_parser("status", help="what is finished and what is not")
    shows.add_argument("--only", default="", metavar="WORDS")
    commands.add_parser("report", help="write the tables")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))  # medseg of this tree, wherever another is installed
    if options.command == "report":
        import tables

        return tables.write_page(RESULTS)
    if options.command == "status":
        return show_status(choose(options.only))
    if options.command == "try":
        chosen = unique([tried(options)])
    else:
        nnunet_side.ENVIRONMENT = options.nnunet_env.resolve()
        chosen = choose(options.only)
        if options.redo_over:
            forget_over(chosen)
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another ledger is at work here", file=sys.stderr)
            return 4
        return work_queue(chosen, options.max_minutes)


def tried(options: argparse.Namespace) -> Experiment:
    """Return the experiment of a command line."""
    return Experiment(
        options.name,
        options.budget,
        pipeline=options.pipeline,
        settings=dict(setting.split("=", 1) for setting in options.set),
        seed=options.seed,
        fold=options.fold,
        threads=options.threads,
    )


def choose(words: str) -> dict[str, Experiment]:
    """Return the experiments, by id, whose title, table and id together hold all words."""
    chosen: dict[str, Experiment] = {}
    for line, runs in LINES.items():
        for key, experiment in unique(runs).items():
            if set(words.split()) <= {line, key, *experiment.title.split()}:
                chosen.setdefault(key, experiment)
    return chosen


def work_queue(experiments: dict[str, Experiment], max_minutes: float | None) -> int:
    """Run what is not finished, in order; a failure is told and the others go on."""
    deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
    failures = 0
    for key, experiment in experiments.items():
        if (RESULTS / f"{key}.json").exists():
            continue
        if deadline and time.monotonic() > deadline:
            return 3
        print(f"{key} {experiment.title}", flush=True)
        work = WORK / key
        try:
            result = run(key, experiment, work, until(deadline))
        except Stopped:
            print("  stopped; the same command goes on", flush=True)
            return 3
        except (Failed, BudgetTooSmall) as error:
            failures += 1
            work.mkdir(parents=True, exist_ok=True)
            (work / "failed.txt").write_text(f"{error}\n")
            print(f"  failed: {error}", flush=True)
        else:
            (work / "failed.txt").unlink(missing_ok=True)
            over = "" if result["is_within"] else "  OVER BUDGET"
            print(f"  Dice {result['mean_dice']:.4f} in {result['cpu_s']:.0f} CPU-seconds{over}", flush=True)
    return int(failures > 0)


def forget_over(experiments: Iterable[str]) -> None:
    """Remove the results and the work of experiments that were over their budget."""
    for key in experiments:
        path = RESULTS / f"{key}.json"
        if path.exists() and not read(path)["is_within"]:
            shutil.rmtree(WORK / key, ignore_errors=True)
            path.unlink()


def until(deadline: float | None) -> Callable[[], bool]:
    """Return a function that says whether there is time left."""
    return lambda: deadline is None or time.monotonic() < deadline


def run(key: str, experiment: Experiment, work: Path, goes_on: Callable[[], bool]) -> Tree:
    """Run one experiment to its end and keep its figures."""
    side = medseg_side.run if experiment.side == "medseg" else nnunet_side.run
    found = side(experiment, work, WORK / "calibrations", goes_on)
    description = describe(experiment)
    result = {
        "schema": SCHEMA,
        "id": key,
        "name": experiment.name,
        "settings": dict(experiment.settings),
        **description,
        "config_sha256": hash_of(description["config"]),
        "commits": read(work / "commits.json"),
        "machine": medseg_side.machine(experiment.threads),
        "is_within": is_within(found["cpu_s"], experiment.budget_cpu_s),
        **found,
    }
    RESULTS.mkdir(exist_ok=True)
    write(RESULTS / f"{key}.json", result)
    return result


def show_status(experiments: dict[str, Experiment]) -> int:
    """Print a line for each experiment, and those that this version lacks something for."""
    for key, experiment in experiments.items():
        print(f"{key} {state_of(key):<32} {experiment.title}")
    for experiment in unavailable(queue()):
        print(f"{'-' * 12} {'not in this version':<32} {experiment.title}")
    return 0


def state_of(key: str) -> str:
    """Return how far an experiment is."""
    if (RESULTS / f"{key}.json").exists():
        result = read(RESULTS / f"{key}.json")
        return f"done {result['mean_dice']:.4f} {result['cpu_s']:.0f}s" + (
            "" if result["is_within"] else " OVER"
        )
    if (WORK / key / "failed.txt").exists():
        return "failed"
    if (WORK / key / "cpu.json").exists():
        return f"begun {read(WORK / key / 'cpu.json')['cpu_s']:.0f}s"
    return "waiting"


def unavailable(experiments: Iterable[Experiment]) -> list[Experiment]:
    """Return the experiments whose settings this version does not know."""
    from medseg.core.errors import MedsegError

    found = []
    for experiment in experiments:
        try:
            id_of(describe(experiment))
        except MedsegError:
            found.append(experiment)
    return found


if __name__ == "__main__":
    sys.exit(main())
