"""Seconds per window of every backend, network by network, and whether `auto` picks well.

    python benchmarks/backends.py --json out/backends.json [--only NAME ...] [--patch 32 48 32] [--repeats 3]

light_unet, unet and deeplab_v3_plus in three sizes at the hippocampus patch (or `--patch`), and nnU-Net's
plain U-Net of 31 M weights at 96^3 (`--big-patch`). Columns: torch with one and with two windows at once,
OpenVINO, onnxruntime; medians of interleaved repeats, one thread. Then `choose_backend("auto")` decides on
its own; its choice must be within 10 % of the best column. Classes are compared with torch's.

Exit: 0 targets met, 1 missed, 4 a backend is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Patch = tuple[int, int, int]

SIZED = ("light_unet", "unet", "deeplab_v3_plus")
SIZES = ("nano", "small", "base")
BIG = "nnU-Net 31 M"
BIG_FEATURES = [32, 64, 128, 256, 320, 320]
COLUMNS = {"torch_1": ("torch", 1), "torch_2": ("torch", 2)}
COLUMNS |= {name: (name, 1) for name in ("openvino", "onnxruntime")}
TARGET = {
    "auto_over_best": 1.10,  # at most, of the column that auto picked over the fastest column
    "disagreement": 1e-4,  # at most, share of voxels whose class is not torch's
}


def main() -> int:
    """Measure, write the JSON, say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="for example `unet-nano` or `nnU-Net 31 M`")
    parser.add_argument("--patch", type=int, nargs=3, default=(32, 48, 32))
    parser.add_argument("--big-patch", type=int, nargs=3, default=(96, 96, 96))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    from medseg.core.errors import ConfigError

    torch.set_num_threads(1)
    wanted = {f"{name}-{size}": (name, {"size": size}, options.patch) for name in SIZED for size in SIZES}
    wanted[BIG] = ("unet", {"features": BIG_FEATURES}, options.big_patch)
    rows = []
    try:
        for name in options.only or wanted:
            rows.append({"network": name, **measure(*wanted[name], options.repeats)})
            print(json.dumps(rows[-1]), flush=True)
    except ConfigError as error:
        print(f"{error.code}: {error.message} ({error.hint})", file=sys.stderr)
        return 4 if error.code == "BACKEND_MISSING" else 1
    found = {key: max(row[key] for row in rows) for key in TARGET}
    ok = all(found[key] <= TARGET[key] for key in TARGET)
    document = {
        "name": "backends",
        "rows": rows,
        "ratio": found,
        "target": TARGET,
        "ok": ok,
        "load": os.getloadavg()[0],
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if ok else 1


def measure(name: str, network_options: dict[str, Any], patch: Patch, repeats: int) -> dict[str, Any]:
    """Return the seconds per window of each column, and what auto made of the same network."""
    from medseg.inference.backends import BACKENDS
    from medseg.inference.backends.choose import choose_backend
    from medseg.inference.backends.convert import make_window

    network = build(name, network_options, (patch[0], patch[1], patch[2]))
    patch = (patch[0], patch[1], patch[2])
    setup: dict[str, float] = {}
    made = {}
    for backend in BACKENDS:
        started = time.perf_counter()
        made[backend] = BACKENDS[backend](network, 1, patch, 3, threads=1)
        setup[backend] = time.perf_counter() - started
    seconds: dict[str, list[float]] = {column: [] for column in COLUMNS}
    for repeat in range(repeats + 1):  # the first is a warm-up
        for column, (backend, batch) in COLUMNS.items():
            windows = make_window(1, patch, batch=batch)
            started = time.perf_counter()
            made[backend](windows)
            if repeat:
                seconds[column].append((time.perf_counter() - started) / batch)
    medians = {column: statistics.median(values) for column, values in seconds.items()}
    decision, _ = choose_backend("auto", [network], 1, patch, 3, threads=1)
    chosen = decision.chosen
    column = chosen.backend if chosen.backend in COLUMNS else f"torch_{chosen.window_batch}"
    picked = medians.get(column, chosen.seconds or 0.0)  # torch with four windows at once has no column
    window = make_window(1, patch, seed=2)
    classes = {backend: run(window).argmax(1) for backend, run in made.items()}
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "patch": list(patch),
        **{column: round(value, 4) for column, value in medians.items()},
        "setup_s": {backend: round(value, 2) for backend, value in setup.items()},
        "auto": chosen.name,
        "auto_over_best": round(picked / min(medians.values()), 3),
        "disagreement": max(float((found != classes["torch"]).float().mean()) for found in classes.values()),
    }


def build(name: str, options: dict[str, Any], patch: Patch) -> Any:
    """Return a network of random weights, halved until about four voxels are left."""
    import torch

    from medseg.core.select import select
    from medseg.models import MODELS, Grid

    levels = len(options.get("features", [0] * 4))
    strides = ((1, 1, 1), *(((2, 2, 2),) * (levels - 1)))
    torch.manual_seed(0)
    grid = Grid(3, patch, (1.0, 1.0, 1.0), strides, ((3, 3, 3),) * levels)
    return select("model", MODELS, name, options)(1, 3, grid).eval()


if __name__ == "__main__":
    sys.exit(main())
