"""Is the forecast of `medseg infer` right? Forecast against the measured peak of the command, size by size.

    python benchmarks/forecast.py --json out/forecast.json [--only 0 3] [--features 8 16 32]

Each combination of scan size and number of classes is a model of random weights and a scan of noise; `infer`
runs in a process of its own (one thread), and its largest resident set, imports included, is compared with
the forecast that it told before it started. Then every combination is run once more under a `--memory-gb` of
85 % of its forecast: it must step down and stay below, or end with exit 4.

Exit: 0 targets met, 1 missed. A few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.io import write_volume

Row = dict[str, Any]

# (voxels of the scan, its spacing, spacing of the model, patch, classes)
COMBINATIONS = (
    ((96, 96, 64), (1.0, 1.0, 1.0), 1.0, (48, 48, 48), 3),
    ((256, 256, 128), (1.0, 1.0, 1.5), 2.0, (48, 48, 48), 3),
    ((256, 256, 200), (1.0, 1.0, 1.0), 2.0, (64, 64, 64), 25),
    ((192, 192, 192), (1.0, 1.0, 1.0), 1.0, (64, 64, 64), 60),
    ((400, 400, 200), (0.8, 0.8, 1.5), 2.0, (64, 64, 48), 118),
    ((512, 512, 150), (0.7, 0.7, 1.5), 1.5, (64, 64, 32), 10),
)
TARGET = {"error": 0.25, "over_cap": 0.0}  # at most: share of the measured peak; of runs above their cap
TOLERATED = 1.05  # of the cap, by a run that stepped down
CAP_SHARE = 0.85


def main() -> int:
    """Run all combinations, write the JSON, say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", type=int, nargs="+", default=list(range(len(COMBINATIONS))))
    parser.add_argument("--features", type=int, nargs="+", default=[8, 16, 32])
    options = parser.parse_args()
    rows = []
    for index in options.only:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(measure(COMBINATIONS[index], options.features, Path(scratch)))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    found = {
        "error": max(abs(row["forecast_mb"] / row["peak_mb"] - 1) for row in rows),
        "over_cap": sum(row["capped"] == "above" for row in rows) / len(rows),
    }
    ok = all(found[name] <= TARGET[name] for name in TARGET)
    text = json.dumps(
        {"name": "forecast", "rows": rows, "ratio": found, "target": TARGET, "ok": ok}, indent=2
    )
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
    return 0 if ok else 1


def measure(combination: Any, features: list[int], scratch: Path) -> Row:
    """Run one combination without and with a cap."""
    shape, spacing_mm, target_mm, patch, classes = combination
    scan = scratch / "scan.nii.gz"
    noise = np.random.default_rng(0).normal(100, 40, shape).astype(np.int16)
    write_volume(scan, Volume(noise[None], Geometry.of_spacing(shape, spacing_mm)))
    write_model(scratch / "model", target_mm, patch, classes, features)
    plain = run_infer(scan, scratch / "model", scratch / "plain")
    cap_gb = CAP_SHARE * plain["forecast_mb"] / 1024
    capped = run_infer(scan, scratch / "model", scratch / "capped", "--memory-gb", f"{cap_gb:.4f}")
    below = capped["peak_mb"] <= TOLERATED * cap_gb * 1024
    outcome = "refused" if capped["exit"] == 4 else "within" if below else "above"
    row = {"scan": shape, "patch": patch, "classes": classes, **plain, "capped": outcome}
    return row | {"capped_mb": capped["peak_mb"], "way": capped["way"]}


def write_model(
    folder: Path, spacing_mm: float, patch: tuple[int, ...], classes: int, features: list[int]
) -> None:
    """Write a model folder with random weights."""
    import torch
    from safetensors.torch import save

    from medseg.core.settings import Builder
    from medseg.data.plan import Normalization, Plan
    from medseg.data.settings import Data
    from medseg.inference.model import save_model
    from medseg.inference.network import build_network

    levels = len(features)
    plan = Plan(
        dims=3,
        spacing_mm=(spacing_mm,) * 3,
        patch=patch,
        batch_size=2,
        strides=((1, 1, 1), *((2, 2, 2),) * (levels - 1)),
        kernels=((3, 3, 3),) * levels,
        features=tuple(features),
        normalization=(Normalization("zscore"),),
        mirror_axes=(0, 1, 2),
        rotate_axes=(0, 1, 2),
        rotate_degrees=30.0,
        reasons={},
    )
    data = Data.model_validate(
        {"channels": {"ct": {}}, "labels": {value: f"class_{value}" for value in range(1, classes)}}
    )
    builder = Builder(name="unet", options={"features": features, "deep_supervision": False})
    torch.manual_seed(0)
    network = build_network(builder, plan, 1, data.n_outputs)
    tree = {
        "name": "forecast",
        "data": data.model_dump(mode="json"),
        "model": builder.model_dump(mode="json"),
        "infer": {},
    }
    save_model(folder, tree, plan, {0: save(network.state_dict())}, {})


def run_infer(scan: Path, model: Path, out: Path, *more: str) -> Row:
    """Run the command and return exit code, forecast, measured peak and the way it took."""
    command = [sys.executable, "-m", "medseg", "infer", str(scan), "-m", str(model), "-o", str(out)]
    command += ["--threads", "1", "--device", "cpu", "--json", "-v", *more]
    environment = {**os.environ, "MEDSEG_HOME": str(out.parent / "home")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in {0, 4}:
        raise RuntimeError(done.stderr)
    told = re.search(r"peak (\d+) MB \((.*)\); (.*)", done.stderr)
    tree = json.loads(done.stdout)
    return {
        "exit": done.returncode,
        "forecast_mb": float(told.group(1)) if told else 0.0,
        "peak_mb": tree["summary"]["peak_rss_mb"],
        "seconds": tree["summary"]["seconds"],
        "parts": told.group(2) if told else "",
        "way": told.group(3) if told else "",
    }


if __name__ == "__main__":
    sys.exit(main())
