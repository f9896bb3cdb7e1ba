"""Does what the planner measures hold? 20 training steps under each --memory-gb on scans of 256^3 voxels.

    python benchmarks/memory.py --json out/memory.json [--gb 2 4 8] [--steps 20]

Phantom scans enlarged to 256 cubed are planned and preprocessed by `medseg preprocess phantom_ct` with a free
grid, so that patch, batch and width come from the probe. Then a process of its own trains fold 0; its peak
resident set, imports included, must stay within the cap, and the largest cap must at least double the voxels
a step sees under the smallest. Validation (`--validate N` cases) is left out unless asked for.

Minutes under 2 GB, the better part of an hour under 8 GB on one core: memory rules here, not time.
Exit: 0 targets met, 1 missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.files import make_folder, write_json
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.data.phantom import make_ct
from medseg.io import write_labels, write_volume

Row = dict[str, Any]

EDGE = 256
CASES = 4  # of four folds
TARGET = {
    "peak_share": 1.0,  # at most, of the cap, of every row
    "voxels_ratio": 2.0,  # at least, of a step under the largest cap over one under the smallest
}
FREE_GRID = ("grid.patch=null", "grid.batch_size=null", "model.options.features=null")


def main() -> int:
    """Train under each cap, write the JSON, say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--gb", type=float, nargs="+", default=[2.0, 4.0, 8.0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--validate", type=int, default=0, metavar="CASES")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)  # the process that is measured
    options = parser.parse_args()
    if options.train:
        train_alone(options.train)
        return 0
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        write_cohort(Path(scratch, "data"))
        for memory_gb in options.gb:
            rows.append(train_under(memory_gb, Path(scratch), options.steps, options.validate))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    voxels = [row["voxels_per_step"] for row in rows]
    found = {"peak_share": max(row["peak_share"] for row in rows), "voxels_ratio": voxels[-1] / voxels[0]}
    ok = found["peak_share"] <= TARGET["peak_share"]
    ok = ok and (len(rows) < 2 or found["voxels_ratio"] >= TARGET["voxels_ratio"])
    document = {"name": "memory", "rows": rows, "ratio": found, "target": TARGET, "ok": ok}
    text = json.dumps(document, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
    return 0 if ok else 1


def write_cohort(folder: Path) -> None:
    """Write phantom scans of 256^3 voxels of 1 mm in MSD layout: the small ones, each voxel repeated."""
    images, labels = make_folder(folder / "imagesTr"), make_folder(folder / "labelsTr")
    training = []
    for index in range(CASES):
        image, label = make_ct(np.random.default_rng([0, index]))
        nearest = np.ix_(*(np.arange(EDGE) * n // EDGE for n in label.array.shape))
        geometry = Geometry.of_spacing((EDGE,) * 3, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
        name = f"phantom_{index}.nii.gz"
        write_volume(images / name, Volume(image.array[0][nearest][None], geometry))
        write_labels(labels / name, Labels(label.array[nearest], geometry), images / name)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    write_json(folder / "dataset.json", {"training": training})


def train_under(memory_gb: float, scratch: Path, steps: int, validate: int) -> Row:
    """Plan and preprocess under a cap, train in a process of its own, and return what it took."""
    run = scratch / f"run_{memory_gb:g}"
    settings = [
        *FREE_GRID,
        "train.epochs=1",
        f"train.iterations_per_epoch={steps}",
        "device=cpu",
        "workers=1",
    ]
    settings += [f"threads={os.environ.get('OMP_NUM_THREADS', '1')}", f"train.validate_cases={validate}"]
    command = [sys.executable, "-m", "medseg", "preprocess", "phantom_ct", "--data", str(scratch / "data")]
    command += ["-o", str(run), "--memory-gb", str(memory_gb)]
    environment = {**os.environ, "MEDSEG_HOME": str(scratch / "home")}
    for setting in settings:
        command += ["--set", setting]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
    planned_s = time.perf_counter() - started
    child = [sys.executable, __file__, "--train", str(run)]
    output = subprocess.run(child, check=True, capture_output=True, text=True, env=environment).stdout
    measured = json.loads(output.splitlines()[-1])
    plan, probe = (json.loads((run / name).read_text()) for name in ("plan.json", "probe.json"))
    return {
        "memory_gb": memory_gb,
        "patch": plan["patch"],
        "batch_size": plan["batch_size"],
        "features": plan["features"],
        "voxels_per_step": prod(plan["patch"]) * plan["batch_size"],
        "probed_mb": probe["peak_mb"],
        **measured,
        "peak_share": measured["peak_mb"] / (memory_gb * 1024),
        "step_s": measured["train_s"] / steps,
        "preprocess_s": planned_s,
    }


def train_alone(run: Path) -> None:
    """Train fold 0, tracked as always, and print seconds and the peak of this process."""
    from medseg.train.probe import read_peak_mb
    from medseg.workflows.progress import Progress
    from medseg.workflows.report import Report
    from medseg.workflows.run_folder import RunFolder
    from medseg.workflows.tracked import open_fold, open_tracker
    from medseg.workflows.train import train_fold

    folder = RunFolder(run)
    config = folder.load_config()
    tracker = open_fold(open_tracker(config, folder, is_tracked=True), config, folder, 0)
    started = time.perf_counter()
    train_fold(config, folder, 0, progress=Progress(), tracker=tracker, report=Report("train"))
    seconds = time.perf_counter() - started
    tracker.end()
    print(json.dumps({"train_s": seconds, "peak_mb": read_peak_mb()}))


if __name__ == "__main__":
    sys.exit(main())
