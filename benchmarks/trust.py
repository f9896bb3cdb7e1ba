"""What a calibrated model says of itself, held against the truth of cases that had no say in it.

    medseg run hippocampus_mr --data $MEDSEG_DATA/hippocampus -o out/hippo --fold all
    python benchmarks/trust.py --run out/hippo --images $MEDSEG_DATA/hippocampus/imagesTr --json FILE

Calibration error before and after, and how many out-of-fold cases lie inside their 90 % interval, are
`medseg.inference.trust.fit.Figures`: each fold is judged by what the other folds teach. For the outlier test
each fold's network segments images that its fold held out, as they are and corrupted; distances are to the
other folds' cases. Rows hold the AUROC of the distance per kind of corruption (0.5 tells nothing, 1 all), the
share with p <= 0.05, and the share that the verdict names. Swapped axes are not pooled: crops that are nearly
cubes look alike from all sides.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.data.preprocess import preprocess_image
from medseg.inference.model import load_model
from medseg.inference.segment import Segmenter
from medseg.inference.trust.fit import Trust, fit_trust
from medseg.inference.trust.image import name_features
from medseg.inference.trust.structure import ALPHA
from medseg.inference.trust.verdict import judge_case
from medseg.inference.trust.watch import Watch, name_structures
from medseg.inference.trust.witness import Witness
from medseg.io import read_volume
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.trust import read_witnesses

CROPPED = 0.3
TARGET = {"volume_coverage": [0.84, 0.96], "pooled_auroc": 0.9}
Corruption = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def add_noise(array: np.ndarray, rng: np.random.Generator, sds: float) -> np.ndarray:
    """Add white noise of so many SD of the image."""
    return array + rng.normal(0, sds * array.std(), array.shape)


def crop(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut `CROPPED` of the planes off one end of one axis."""
    axis, count = int(rng.integers(1, 4)), array.shape
    gone = round(CROPPED * count[axis])
    planes = np.arange(count[axis])
    return array.take(planes[gone:] if rng.integers(2) else planes[: count[axis] - gone], axis)


def swap_axes(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exchange two axes."""
    return array.swapaxes(*[(1, 2), (1, 3), (2, 3)][int(rng.integers(3))])


CORRUPTIONS: dict[str, Corruption] = {
    "none": lambda array, _: array,
    "noise of 0.3 SD": lambda array, rng: add_noise(array, rng, 0.3),
    "noise of 0.6 SD": lambda array, rng: add_noise(array, rng, 0.6),
    "30 % cropped": crop,
    "inverted": lambda array, _: array.max() + array.min() - array,
    "axes swapped": swap_axes,
}


def measure_auroc(usual: list[float], strange: list[float]) -> float:
    """Return the share of pairs in which the strange one is farther; equal ones count half."""
    difference = np.array(strange)[:, None] - np.array(usual)
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def judge(segmenter: Segmenter, trust: Trust, volume: Volume) -> dict[str, Any]:
    """Return the verdict of one image."""
    array, placement = preprocess_image(volume, segmenter.model.plan)
    watch = Watch(segmenter.model, array, placement)
    segmenter.segment(array, placement, observers=[watch.observe])
    return judge_case(
        trust,
        list(name_structures(segmenter.model.data)),
        watch.observer.summarize(),
        watch.image_features,
        voxel_mm3=placement.grid.voxel_volume_mm3,
    )


def read_dice(run: RunFolder) -> dict[str, np.ndarray]:
    """Return the Dice of each label, as the run evaluated it."""
    found: dict[str, list[float]] = {}
    with (run.evaluation / "cases.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(row["id"], []).append(float(row["dice"] or "nan"))
    return {name: np.array(values) for name, values in found.items()}


def corrupt_cases(
    run: RunFolder, witnesses: list[Witness], images: Path, cases_per_fold: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the verdicts of held-out images, as they are and corrupted, by kind."""
    config, splits = run.load_config(), run.load_splits()
    names, channels = list(name_structures(config.data).values()), name_features(list(config.data.channels))
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in CORRUPTIONS}
    for fold in run.trained_folds:
        others = [witness for witness in witnesses if witness.part != fold]
        trust = fit_trust(others, names, channels, is_regions=bool(config.data.regions))
        model = load_model(run.model, torch.device("cpu"), folds=[fold], trust_code=True)
        segmenter = Segmenter(model, config.infer)
        for number, case in enumerate(splits.validation(fold)[:cases_per_fold]):
            volume = read_volume(images / f"{case}.nii.gz")
            for place, (kind, corrupt) in enumerate(CORRUPTIONS.items()):
                rng = np.random.default_rng([fold, number, place])
                array = corrupt(volume.array.astype(np.float32), rng)
                geometry = Geometry(array.shape[1:], volume.geometry.affine)
                found[kind].append(judge(segmenter, trust, Volume(array, geometry)))
            print(f"fold {fold} {case}", file=sys.stderr)
    return found


def summarise(found: dict[str, list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], float]:
    """Return a row per kind of corruption, and the AUROC of all but the swapped axes."""
    distances = {kind: [case["outlier"]["distance"] for case in cases] for kind, cases in found.items()}
    rows = [
        {
            "name": kind,
            "n": len(cases),
            "auroc": round(measure_auroc(distances["none"], distances[kind]), 4),
            "p <= 0.05": round(float(np.mean([case["outlier"]["p"] <= ALPHA for case in cases])), 4),
            "named": round(float(np.mean([case["look"] for case in cases])), 4),
        }
        for kind, cases in found.items()
    ]
    pooled = [d for kind, many in distances.items() if kind not in ("none", "axes swapped") for d in many]
    return rows, round(measure_auroc(distances["none"], pooled), 4)


def main() -> int:
    """Judge, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a run whose folds are all trained")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images, <id>.nii.gz")
    parser.add_argument("--cases-per-fold", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = RunFolder(options.run)
    figures = json.loads((run.root / "trust.json").read_text())["figures"]
    witnesses = read_witnesses(run, read_dice(run))
    rows, pooled = summarise(corrupt_cases(run, witnesses, options.images, options.cases_per_fold))
    low, high = TARGET["volume_coverage"]
    ok = low <= figures["volume_coverage"] <= high and pooled >= TARGET["pooled_auroc"]
    ratio = {"pooled_auroc": pooled, **figures}
    result = {"name": "trust", "rows": rows, "ratio": ratio, "target": TARGET, "ok": bool(ok)}
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
