"""Every network of MODELS: parameters, GFLOP of a patch, seconds of a training iteration.

    python benchmarks/networks.py --json out/networks.json [--markdown out/networks.md] [--size small]

A patch of 32 x 48 x 32 voxels, one channel, three classes; levels as the planner chooses them. GFLOP are
multiplications and additions of one forward pass of one patch (torch.utils.flop_counter: convolutions, matrix
products, attention). An iteration is the real training step (Dice + focal loss, AdamW, averaged weights) of
`--batch` patches in the precision that `train.amp=auto` takes: the fastest of `--repeats`, in CPU seconds
where there is no GPU, so that a loaded machine matters little. Each network runs in a process of its own.
Networks that have presets are built at `--size`; one that refuses a 3D grid is measured in 2D.

Exit: 0 every network was measured, 1 one failed.
"""

from __future__ import annotations

import argparse
import inspect
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from medseg.core.errors import ConfigError
from medseg.core.select import select
from medseg.data.plan import choose_topology
from medseg.inference.network import choose_device
from medseg.losses import LOSSES, deep_supervised
from medseg.models import MODELS, Grid
from medseg.train.loop import Job, train_step
from medseg.train.precision import choose_precision
from medseg.train.settings import Train
from medseg.train.state import start_state

Row = dict[str, Any]

PATCH = (32, 48, 32)
CLASSES = 3
COLUMNS = {
    "network": "network",
    "dims": "dims",
    "parameters_m": "parameters (M)",
    "gflop": "GFLOP a patch",
    "iteration_s": "s an iteration",
    "peak_mb": "peak MB",
}


def main() -> int:
    """Measure every network, write JSON and table, say whether all could be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--size", default="small")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=sorted(MODELS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options)))
        return 0
    rows = [measure_apart(name) for name in options.only]
    ok = all("error" not in row for row in rows)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    setting = {"patch": PATCH, "batch": options.batch, "size": options.size}
    document = {"name": "networks", **setting, "rows": rows, "ratio": {}, "target": {}, "ok": ok}
    text, table = json.dumps({**document, "machine": machine}, indent=2), to_markdown(rows)
    print(table)
    for path, content in ((options.json, text), (options.markdown, table)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
    return 0 if ok else 1


def measure_apart(name: str) -> Row:
    """Measure one network in a process of its own, with the options of this one."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"network": name, "error": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, options: argparse.Namespace) -> Row:
    """Return the row of one network."""
    from medseg.train.probe import peak_mb

    device = choose_device(options.device)
    torch.manual_seed(0)
    network, dims = build(name, options.size)
    network.to(device)
    parameters = sum(weight.numel() for weight in network.parameters())
    image = torch.randn((1, 1, *PATCH[:dims]), device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(image)
    return {
        "network": name,
        "dims": dims,
        "parameters_m": parameters / 1e6,
        "gflop": counter.get_total_flops() / 1e9,
        "iteration_s": time_iteration(network.train(), dims, device, options),
        "peak_mb": peak_mb(device),
    }


def build(name: str, size: str) -> tuple[torch.nn.Module, int]:
    """Return the network and its dimensions, 3 unless it refuses."""
    presets = {"size": size} if "size" in inspect.signature(MODELS[name]).parameters else {}
    builder = select("model", MODELS, name, presets)
    try:
        return builder(1, CLASSES, make_grid(3)), 3
    except ConfigError:
        return builder(1, CLASSES, make_grid(2)), 2


def make_grid(dims: int) -> Grid:
    """Return the planner's levels for the patch at 1 mm."""
    i, j, k = PATCH
    strides, kernels = choose_topology((i, j, k if dims == 3 else 1), (1.0, 1.0, 1.0))
    return Grid(
        dims=dims,
        patch=PATCH[:dims],
        spacing_mm=(1.0,) * dims,
        strides=tuple(level[:dims] for level in strides),
        kernels=tuple(level[:dims] for level in kernels),
    )


def time_iteration(
    network: torch.nn.Module, dims: int, device: torch.device, options: argparse.Namespace
) -> float:
    """Return the seconds of the fastest training step after a first one."""
    settings = Train()
    state = start_state(network, settings, device, uses_scaler=False)
    dtype = choose_precision(settings.amp, device)
    loss = deep_supervised(select("loss", LOSSES, "dice_focal", {}))
    job = Job(settings, lambda epoch, iterations: [], loss, device, dtype, dims, seed=0)
    shape = (*PATCH[:dims], 1)[:3]
    batch = torch.randn((options.batch, 1, *shape)), torch.randint(0, CLASSES, (options.batch, *shape))
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    train_step(state, job, batch)
    fastest = float("inf")
    for _ in range(options.repeats):
        started = clock()
        train_step(state, job, batch).item()
        fastest = min(fastest, clock() - started)
    return fastest


def to_markdown(rows: list[Row]) -> str:
    """Return the rows as a table, the quickest network first."""
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|---" * len(COLUMNS) + "|"]
    for row in sorted(rows, key=lambda row: row.get("iteration_s", float("inf"))):
        cells = [row.get(key, "") for key in COLUMNS]
        lines.append(
            "| "
            + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells)
            + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
