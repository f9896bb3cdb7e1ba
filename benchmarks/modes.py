"""What `--mode fast` and `accurate` do to Dice and time, on cases that the networks did not see.

    python benchmarks/modes.py --json out/modes.json [--run RUN ...] [--work DIR] [--threads 1]

For each `--run`: the cases that fold 0 held out, predicted by fold 0's network (the locator was trained on
the same side of the split) in every mode; a row a case and mode with mean Dice, windows and seconds of
prediction. Without `--run`, long bodies are made and `phantom_ct` is trained on them for some minutes below
`--work`: the organ lies anywhere along the body, so where to look is not known before.

Exit: 0 fast loses at most 0.01 of Dice against exact and takes less time, 1 not.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
TARGET = {"dice_loss": 0.01, "seconds": 1.0}  # of fast: at most, and as a share of exact's
SHAPE, SPACING_MM = (96, 80, 104), (2.5, 2.5, 4.0)
CASES, SEED = 15, 5
SETTINGS = {
    "grid.patch": "[48,48,24]",
    "model.name": "strided_unet",
    "model.options": "{features: [12, 24, 48, 64]}",
    "train.epochs": 24,
    "split.folds": 3,
    "device": "cpu",
}


def main() -> int:
    """Measure every run, write the JSON and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--run", type=Path, nargs="*", default=[], metavar="RUN")
    parser.add_argument("--work", type=Path, default=Path("out/modes"), metavar="DIR")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    rows: list[Row] = []
    for run in options.run or [train_phantom(options.work, options.threads)]:
        rows += measure(run, options.threads)
    means = {mode: summarise([row for row in rows if row["mode"] == mode]) for mode in ("exact", "fast")}
    found = {
        "dice_loss": means["exact"]["dice"] - means["fast"]["dice"],
        "seconds": means["fast"]["seconds"] / means["exact"]["seconds"],
    }
    ok = all(value <= TARGET[name] for name, value in found.items())
    document = {"name": "modes", "rows": rows, "ratio": found, "target": TARGET, "ok": ok}
    machine = {"python": platform.python_version(), "machine": platform.machine(), "threads": options.threads}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**document, "machine": machine}, indent=2) + "\n")
    for mode in dict.fromkeys(row["mode"] for row in rows):
        print(mode, json.dumps(summarise([row for row in rows if row["mode"] == mode])))
    return int(not ok)


def summarise(rows: list[Row]) -> dict[str, float]:
    """Return means over cases."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in ("dice", "windows", "seconds")}


def measure(run: Path, threads: int) -> list[Row]:
    """Return a row per held-out case of fold 0 and mode."""
    import numpy as np
    import torch

    from medseg.inference.model import load_model
    from medseg.inference.modes import MODES, apply_mode, describe_effort, find_box
    from medseg.inference.segment import Segmenter
    from medseg.io import read_labels
    from medseg.workflows.run_folder import RunFolder

    torch.set_num_threads(threads)
    folder = RunFolder(run)
    loaded = load_model(run, torch.device("cpu"), folds=[0])
    rows = []
    for name in MODES:
        model, how = apply_mode(loaded, name)
        segmenter = Segmenter(model, model.infer)
        for index, case_id in enumerate(folder.load_splits().validation(0)):
            case = folder.case(case_id)
            image, reference = np.asarray(case.image[:]), read_labels(case.reference).array
            started = time.perf_counter()
            box = find_box(model, image) if how.is_located else None
            labels, _ = segmenter.segment(image, case.placement, slabs=segmenter.stream(image, box=box))
            seconds = time.perf_counter() - started
            dice = [overlap(reference == value, labels.array == value) for value in model.data.labels]
            told = [value for value in dice if value is not None]
            rows.append(
                {
                    "run": loaded.name,
                    "case": index,
                    "mode": name,
                    **describe_effort(model, how),
                    "dice": sum(told) / max(1, len(told)),
                    "windows": len(segmenter.plan(image.shape[1:], box)),
                    "seconds": seconds,
                }
            )
    return rows


def overlap(reference: Any, predicted: Any) -> float | None:
    """Return Dice; None where both are empty."""
    total = int(reference.sum() + predicted.sum())
    return 2 * int((reference & predicted).sum()) / total if total else None


def train_phantom(work: Path, threads: int) -> Path:
    """Return a RUN on long bodies, made where it is not there yet."""
    data, run = work / "data", work / "RUN"
    if not (data / "dataset.json").exists():
        write_bodies(data)
    settings = {**SETTINGS, "threads": threads, "workers": 1}
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "medseg", "run", "phantom_ct", "--data", str(data), "-o", str(run)]
    subprocess.run([*command, "--no-tracking", *pairs], check=True)
    return run


def write_bodies(folder: Path) -> None:
    """Write a cohort in MSD layout: long bodies with one organ, its lesion, and an unlabelled double."""
    import numpy as np

    from medseg.core.geometry import Geometry
    from medseg.core.volume import Labels, Volume
    from medseg.io import write_labels, write_volume

    training = []
    for index in range(CASES):
        image, label = make_body(np.random.default_rng([SEED, index]))
        name, geometry = f"body_{index:02d}.nii.gz", Geometry.of_spacing(SHAPE, SPACING_MM)
        write_volume(folder / "imagesTr" / name, Volume(image[None], geometry))
        write_labels(folder / "labelsTr" / name, Labels(label, geometry))
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    (folder / "dataset.json").write_text(json.dumps({"training": training}))


def make_body(rng: Any) -> tuple[Any, Any]:
    """Return (I, J, K) int16 HU and labels: organ 1 on the right, lesion 2, a larger double on the left."""
    import numpy as np

    axes = np.meshgrid(*[np.arange(n) * mm for n, mm in zip(SHAPE, SPACING_MM)], indexing="ij")
    middle = [(n - 1) / 2 * mm for n, mm in zip(SHAPE, SPACING_MM)]

    def ball(at: Any, radius: Any) -> Any:
        return sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, at, radius)) <= 1

    body = ball(middle, (95, 75, 1e6))
    height = rng.uniform(60, SHAPE[2] * SPACING_MM[2] - 60)
    at = np.array([middle[0] + 40, middle[1], height]) + rng.uniform(-6, 6, 3)
    radius = np.array([28, 32, 36]) * rng.uniform(0.85, 1.1, 3)
    double_at = np.array([middle[0] - 42, middle[1], height + rng.uniform(-30, 30)])
    organ, lesion = ball(at, radius), ball(at + rng.uniform(-10, 10, 3), (11, 11, 13))
    lesion &= organ
    hu = np.where(body, -80.0, -1000.0)
    hu[ball((middle[0], middle[1] - 45, 0), (12, 12, 1e6))] = 400
    hu[ball(double_at, radius * 1.15)] = 60
    hu[organ] = 60
    hu[lesion] = -20
    hu += rng.normal(0, 25, SHAPE)
    return hu.astype(np.int16), np.where(lesion, 2, organ).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
