"""`medseg infer` against nnU-Net's command and MONAI's recipe: seconds, memory, and equal masks.

    python benchmarks/inference.py cohort large many-classes --json FILE [--nnunet-env DIR]

cohort         hippocampus scans in one call, nnU-Net's network with weights that nobody trained, no
               mirroring; `--mirror`: with it, too; `--model RUN`: and medseg's own against nnU-Net's default
large          one CT-like volume of 512x512x300 in 25 classes, nnU-Net's network of 31 M
many-classes   118 classes on 512x512x400 by a light network: what the export and the whole command take

Sides run in turns, each run a process of its own with all cores; seconds are medians, CPU seconds and memory
those of all processes of a side. Every `--medseg` is one more side: its options for `medseg infer`. `--scale`
shrinks the volumes, to try the script. Masks are compared with nnU-Net's, voxels whose best two logits are
closer than 0.01 set aside.

Exit: 0 targets met, 1 missed, 4 nnU-Net cannot be installed or MEDSEG_DATA is not set.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import inference_inputs as inputs
import nnunet_env
from inference_sides import Bench, Row, Side, compare_masks, run_in_turns

HERE = Path(__file__).resolve().parent
TARGET: dict[str, float] = {
    "cohort_wall": 2.0,  # at least, nnU-Net's over ours, no mirroring
    "cohort_cpu": 1.3,
    "cohort_mirrored_cpu": 1.2,
    "cohort_own_cpu": 10.0,  # medseg's own model, against nnU-Net's default
    "large_wall": 2.0,
    "large_fast_wall": 5.0,  # of sides with `--mode fast`
    "large_memory": 3.0,
    "large_outside": 10.0,  # wall seconds outside the network
    "agreement": 0.999,
    "export_s": 30.0,  # at most, after the last window, on two cores
    "export_own_mb": 1024.0,  # at most
    "many_peak_mb": 6144.0,  # at most
    "forecast_apart": 0.25,  # at most: |forecast / peak - 1|
}
AT_MOST = {"export_s", "export_own_mb", "many_peak_mb", "forecast_apart"}
LARGE, MANY, CLASSES = (512, 512, 300), (512, 512, 400), (25, 118)
Found = tuple[list[Row], dict[str, float]]


def main() -> int:
    """Run the parts, write the JSON, say whether the targets are met."""
    options = parse()
    programs = options.nnunet_env / "bin"
    if set(options.parts) & {"cohort", "large"} and not (programs / "python").exists():
        try:
            programs = nnunet_env.ensure(options.nnunet_env)
        except nnunet_env.NotInstallable as error:
            print(error, file=sys.stderr)
            return 4
    if "cohort" in options.parts and not os.environ.get("MEDSEG_DATA"):
        print("MEDSEG_DATA is not set", file=sys.stderr)
        return 4
    rows: list[Row] = []
    found: dict[str, float] = {}
    for part in options.parts:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            made, ratios = PARTS[part](Bench(Path(scratch), programs, part != "cohort"), options)
        rows += [{"part": part, **row} for row in made]
        found |= ratios
    missed = [name for name, value in found.items() if not is_met(name, value)]
    target = {name: TARGET[name] for name in found}
    document = {"name": "inference", "rows": rows, "ratio": found, "target": target, "ok": not missed}
    text = json.dumps(document, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
    return 1 if missed else 0


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--nnunet-env", type=Path, default=nnunet_env.DEFAULT, help="made where missing")
    parser.add_argument("--scratch", type=Path, help="where gigabytes may be written")
    parser.add_argument("--medseg", action="append", metavar="OPTIONS", help="--medseg='--mode fast'")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", type=int, default=12, help="of the cohort")
    parser.add_argument("--mirror", action="store_true", help="the cohort with mirroring, too")
    parser.add_argument("--model", type=Path, metavar="RUN", help="medseg's own, for the cohort")
    parser.add_argument("--no-monai", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0, help="of the volumes' edges")
    options = parser.parse_args()
    options.medseg = options.medseg or [""]
    return options


def run_cohort(bench: Bench, options: argparse.Namespace) -> Found:
    """Many small scans in one call."""
    images = sorted(Path(os.environ["MEDSEG_DATA"], "hippocampus", "imagesTr").glob("*.nii.gz"))
    scans = bench.work / "scans"
    inputs.link_cases(images[: options.cases], scans)
    rows, found = [], {}
    for mirror in (False, True) if options.mirror or options.model else (False,):
        labels, work = ["anterior", "posterior"], bench.work / f"results_{mirror}"
        order = inputs.order_model(work, inputs.HIPPOCAMPUS, labels, "ZScoreNormalization", mirror=mirror)
        model = make_model(bench, order)
        sides = [bench.nnunet(model, scans, mirror=mirror)]
        sides += [bench.medseg(model, scans, each) for each in options.medseg]
        if not options.no_monai and not mirror:
            sides.append(bench.monai(model, scans))
        same = len(sides)
        if mirror and options.model:
            sides += [bench.medseg(options.model, scans, each, "own model") for each in options.medseg]
        made = run_in_turns(bench, [(side, options.repeats) for side in sides])
        add_agreement(bench, sides[:same], made, model, scans)
        kind, equal = "cohort_mirrored" if mirror else "cohort", keep_equal(made)
        found |= {f"{kind}_{name}": best_ratio(equal, f"{name}_s", "medseg") for name in ("wall", "cpu")}
        if same < len(sides):
            found["cohort_own_cpu"] = best_ratio(equal, "cpu_s", "own model")
        found["agreement"] = min(found.get("agreement", 1.0), lowest_agreement(equal))
        rows += [{"mirror": mirror, "cases": options.cases, **row} for row in made]
    return rows, {name: value for name, value in found.items() if name in TARGET}


def run_large(bench: Bench, options: argparse.Namespace) -> Found:
    """One large scan; nnU-Net once."""
    scans, shape = bench.work / "scans", scale(LARGE, options.scale)
    scan = bench.work / "ct.nii.gz"
    inputs.write_ct(scan, shape, inputs.CT_MM)
    inputs.link_cases([scan], scans)
    labels = [f"organ {value}" for value in range(1, CLASSES[0])]
    order = inputs.order_model(bench.work / "results", inputs.ORGANS, labels, "CTNormalization", mirror=False)
    model = make_model(bench, order)
    sides = [bench.nnunet(model, scans), *(bench.medseg(model, scans, each) for each in options.medseg)]
    if not options.no_monai:
        sides.append(bench.monai(model, scans))
    counts = [options.repeats if side.name.startswith("medseg") else 1 for side in sides]
    made = run_in_turns(bench, list(zip(sides, counts, strict=True)))
    add_agreement(bench, sides, made, model, scans)
    equal = keep_equal(made)
    names = {"large_wall": "wall_s", "large_memory": "peak_mb", "large_outside": "outside_s"}
    found = {name: best_ratio(equal, key, "medseg") for name, key in names.items()}
    fast = [row for row in made if row["side"] == "nnunet" or "--mode fast" in row["side"]]
    if len(fast) > 1:
        found["large_fast_wall"] = best_ratio(fast, "wall_s", "medseg")
    return [{"shape": shape, **row} for row in made], found | {"agreement": lowest_agreement(equal)}


def run_many(bench: Bench, options: argparse.Namespace) -> Found:
    """Many classes: what comes after the last window, and the memory that was foretold."""
    scans, shape = bench.work / "scans", scale(MANY, options.scale)
    scan, model = bench.work / "ct.nii.gz", bench.work / "model"
    inputs.write_ct(scan, shape, inputs.MANY_MM)
    inputs.link_cases([scan], scans)
    inputs.write_many_classes(model, CLASSES[1])
    rows = []
    for each in options.medseg:
        side = bench.medseg(model, scans, each)
        row = run_in_turns(bench, [(side, options.repeats)])[0]
        row["forecast_mb"] = foretell(bench, side)
        rows.append({"shape": shape, "classes": CLASSES[1], **row})
    worst = {name: max(row[name] for row in rows) for name in ("export_s", "export_own_mb")}
    apart = max(abs(row["forecast_mb"] / row["peak_mb"] - 1) for row in rows)
    peak = max(row["peak_mb"] for row in rows)
    return rows, {**worst, "many_peak_mb": peak, "forecast_apart": apart}


def make_model(bench: Bench, order: Row) -> Path:
    """Let nnU-Net make a results folder."""
    path = bench.work / "order.json"
    path.write_text(json.dumps(order))
    child = HERE / "nnunet_models_child.py"
    environment = nnunet_env.environment(bench.work / "nnunet")
    subprocess.run([str(bench.programs / "python"), str(child), str(path)], env=environment, check=True)
    return inputs.find_results(order)


def foretell(bench: Bench, side: Side) -> float:
    """Return what a dry run of a side says of the peak of memory, of its only case."""
    command = [sys.executable, "-m", "medseg", *side.command[side.command.index(str(side.clock)) + 1 :]]
    command.insert(3, "infer")
    command += ["-o", str(bench.masks(side)), "--dry-run", "--json"]
    done = subprocess.run(command, env=side.environment, capture_output=True, text=True, check=True)
    peaks: dict[str, float] = json.loads(done.stdout)["dry_run"]["peak_mb"]
    return max(peaks.values())


def add_agreement(bench: Bench, sides: list[Side], made: list[Row], model: Path, scans: Path) -> None:
    """Put into each row how far its masks equal those of nnU-Net, the first side."""
    folders = [bench.masks(side) for side in sides]
    for row, shares in zip(made[1:], compare_masks(folders[0], folders[1:], model, scans)):
        row |= shares


def keep_equal(made: list[Row]) -> list[Row]:
    """Return the rows of sides whose model looks at all its windows, as nnU-Net's does."""
    return [row for row in made if not re.search(r"--mode[ =](?!exact)", row["side"])]


def lowest_agreement(made: list[Row]) -> float:
    """Return that of medseg; MONAI's recipe resamples otherwise."""
    return float(min(row["agreement"] for row in made if row["side"].startswith("medseg")))


def best_ratio(made: list[Row], key: str, name: str) -> float:
    """Return nnU-Net's figure over the lowest of the sides that a name begins."""
    return float(made[0][key] / min(row[key] for row in made if row["side"].startswith(name)))


def scale(shape: tuple[int, int, int], by: float) -> list[int]:
    """Return a shape made smaller."""
    return [round(size * by) for size in shape]


def is_met(name: str, value: float) -> bool:
    """Whether a figure keeps its target."""
    return value <= TARGET[name] if name in AT_MOST else value >= TARGET[name]


PARTS: dict[str, Callable[[Bench, argparse.Namespace], Found]] = {
    "cohort": run_cohort,
    "large": run_large,
    "many-classes": run_many,
}


if __name__ == "__main__":
    sys.exit(main())
