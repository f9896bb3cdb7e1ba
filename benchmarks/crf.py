"""The dense CRF of `infer.refine`: its time and memory, and what it does to the Dice of held-out cases.

    python benchmarks/crf.py --json out/crf.json [--classes 2 4] [--runs 3] [--run RUN ...] [--options YAML]

time: a phantom of 256 x 256 x 128 voxels of 1 x 1 x 1.5 mm, probabilities with soft, noisy borders between
nested shells, default options, one thread; each run is a process of its own, medians are given. Peak memory
is what the step adds to a process that holds its inputs.

gain: for each `--run`, every trained fold's network on the cases it held out, without and with the step; mean
Dice of both and the gain with its interval over patients, label by label. Post-processing is left out on both
sides. Runs of the benchmark sets: `medseg run hippocampus_mr`, `nuclei_fluorescence`, `sarcoma_pet`. A gain
is reported, not asked for: the step is off by default.

Exit: 0 targets met, 1 missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
SHAPE, SPACING_MM = (256, 256, 128), (1.0, 1.0, 1.5)
TARGET = {"seconds": 120.0, "added_mb": 1024.0}  # at most, of every number of classes


def main() -> int:
    """Run the parts asked for, write the JSON and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--classes", type=int, nargs="*", default=[2, 4], metavar="N")
    parser.add_argument("--runs", type=int, default=3, help="of each number of classes (default: 3)")
    parser.add_argument("--run", type=Path, nargs="*", default=[], metavar="RUN")
    parser.add_argument("--options", default="{}", metavar="YAML", help="of crf, for the gain")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import yaml

    rows: list[Row] = []
    found: dict[str, float] = {}
    for classes in options.classes:
        timed = [run_child(classes) for _ in range(options.runs)]
        rows += timed
        for name in TARGET:
            found[f"{name}_{classes}"] = statistics.median(row[name] for row in timed)
    for folder in options.run:
        rows += compare(folder, yaml.safe_load(options.options))
    ok = all(value <= TARGET[name.rpartition("_")[0]] for name, value in found.items())
    document = {"name": "crf", "rows": rows, "ratio": found, "target": TARGET, "ok": ok}
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**document, "machine": machine}, indent=2) + "\n")
    for row in rows:
        print(json.dumps(row))
    return int(not ok)


# ---- time ---------------------------------------------------------------------------------------


def run_child(classes: int) -> Row:
    """Time one refinement in a fresh process."""
    command = [sys.executable, __file__, "--child", str(classes)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def child(classes: int) -> None:
    """Refine the phantom and print time and memory."""
    sys.path.insert(0, str(ROOT))
    import torch

    from medseg.core.geometry import Geometry
    from medseg.inference.refine.crf import crf, find_active

    torch.set_num_threads(1)
    geometry = Geometry.of_spacing(SHAPE, SPACING_MM)
    probabilities, image = make_phantom(classes)
    held = read_peak_mb(reset=True)
    wall, cpu = time.perf_counter(), time.process_time()
    refined = crf(probabilities, image, geometry)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    active = find_active(probabilities, geometry, band_mm=5.0, certainty=0.99)
    row = {
        "part": "time",
        "classes": classes,
        "seconds": wall,
        "cpu_s": cpu,
        "added_mb": read_peak_mb() - held,
        "share_of_voxels": float(active.float().mean()),
        "changed_voxels": int((refined.argmax(0) != probabilities.argmax(0)).sum()),
    }
    print(json.dumps(row))


def make_phantom(classes: int) -> tuple[Any, Any]:
    """Return probabilities of nested shells, sure but at their noisy borders, and a noisy image of them."""
    import torch

    rng = torch.Generator().manual_seed(0)
    axes = [(torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING_MM)]
    radius_mm = sum(
        axis.square().view([-1 if a == b else 1 for b in range(3)]) for a, axis in enumerate(axes)
    )
    radius_mm = radius_mm.sqrt()
    # Depth below each shell's surface, in units of a border's width; noise as coarse as a network's errors.
    noise = torch.randn([n // 4 for n in SHAPE], generator=rng)
    noise = torch.nn.functional.interpolate(noise[None, None], size=SHAPE, mode="trilinear")[0, 0]
    logits = torch.zeros(classes, *SHAPE)
    for shell in range(1, classes):
        logits[shell] = logits[shell - 1] + ((80 - 15 * shell) - radius_mm + 2 * noise) * 1.5
    truth = sum((radius_mm < 80 - 15 * shell).float() for shell in range(1, classes))
    return torch.softmax(logits, 0), (truth + 0.3 * torch.randn(SHAPE, generator=rng))[None]


def read_peak_mb(*, reset: bool = False) -> float:
    """Return the largest resident set so far; `reset` starts it anew from what is held now (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    if sys.platform == "linux":
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# ---- gain ---------------------------------------------------------------------------------------


def compare(folder: Path, options: dict[str, Any]) -> list[Row]:
    """Return a row a label: Dice of held-out cases without and with the step."""
    import numpy as np
    import torch

    from medseg.core.settings import Builder
    from medseg.inference.model import load_model
    from medseg.inference.segment import Segmenter
    from medseg.io import read_labels
    from medseg.workflows.run_folder import RunFolder

    run = RunFolder(folder)
    splits, names = run.load_splits(), run.load_config().data.labels
    scores: dict[int, list[tuple[str, float, float]]] = {label: [] for label in names}
    seconds = [0.0, 0.0]
    for fold in run.trained_folds:
        model = load_model(folder, torch.device("cpu"), [fold])
        plain = model.infer.model_copy(update={"postprocess": (), "refine": ()})
        refined = plain.model_copy(update={"refine": (Builder(name="crf", options=options),)})
        sides = [Segmenter(model, settings) for settings in (plain, refined)]
        for name in splits.validation(fold):
            case = run.case(name)
            reference, image, masks = read_labels(case.reference).array, np.asarray(case.image[:]), []
            for side, segmenter in enumerate(sides):
                start = time.perf_counter()
                masks.append(segmenter.segment(image, case.placement)[0].array)
                seconds[side] += time.perf_counter() - start
            for label in names:
                if ((reference == label) | (masks[0] == label) | (masks[1] == label)).any():
                    before, after = (measure_dice(reference == label, mask == label) for mask in masks)
                    scores[label].append((name, before, after))
    about = {"part": "gain", "pipeline": run.load_config().name, "options": options}
    about |= {"seconds_without": round(seconds[0], 1), "seconds_with": round(seconds[1], 1)}
    patients = run.patients()
    return [about | {"label": names[label], **describe(rows, patients)} for label, rows in scores.items()]


def measure_dice(reference: Any, predicted: Any) -> float:
    """Return the Dice of two masks of which one holds a voxel."""
    return 2 * float((reference & predicted).sum()) / float(reference.sum() + predicted.sum() or 1)


def describe(rows: list[tuple[str, float, float]], patients: dict[str, str]) -> Row:
    """Return mean Dice before and after, and the interval of the gain over patients."""
    from medseg.metrics.paired import bootstrap_mean

    if not rows:
        return {"cases": 0}
    names, before, after = zip(*rows)
    gains = [new - old for new, old in zip(after, before)]
    gain = bootstrap_mean(gains, [patients[name] for name in names], seed=0)
    return {
        "dice_without": round(statistics.fmean(before), 4),
        "dice_with": round(statistics.fmean(after), 4),
        "gain": gain.to_json(),
        "better": sum(g > 0 for g in gains),
        "worse": sum(g < 0 for g in gains),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(int(sys.argv[2]))
    else:
        sys.exit(main())
