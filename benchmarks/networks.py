"""Every network on one patch: parameters, GFLOP of a forward pass, CPU seconds of a training step.

    python benchmarks/networks.py [--json FILE] [--only NAME ...]     default: benchmarks/networks.json

The patch is that of the hippocampus (32 x 48 x 32, one channel, three classes) and its middle plane in 2D;
each network has the options in OPTIONS or its defaults. One thread, the precision that training picks here,
median of three steps after one. A multiplication and an addition are two operations. What `report` of
ledger.py shows is the file that this writes.

Exit: 0 all measured, 1 some networks cannot be built on this grid (the row says why).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "networks.json"
BATCH, CLASSES, STEPS = 2, 3, 3
PATCH, SPACING_MM = (32, 48, 32), (1.0, 1.0, 1.0)
SIZED = {"size": "small"}
OPTIONS: dict[str, dict[str, Any]] = {}  # of networks for which neither `small` nor the default is meant


def main() -> int:
    """Measure, write the JSON and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT, metavar="FILE")
    parser.add_argument("--only", nargs="*", metavar="NAME")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    from medseg.models import MODELS

    torch.set_num_threads(1)
    rows = []
    for name in options.only or MODELS:
        for dims in (2, 3):
            rows.append({"network": name, "dims": dims, **measure(name, dims)})
            print(json.dumps(rows[-1]), flush=True)
    ok = all("reason" not in row for row in rows)
    document = {"name": "networks", "rows": rows, "ratio": {}, "target": {}, "ok": ok}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=2) + "\n")
    return int(not ok)


def measure(name: str, dims: int) -> dict[str, Any]:
    """Return the figures of a network, or the reason why there are none."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from medseg.core.errors import ConfigError

    torch.manual_seed(0)
    try:
        options, network = build(name, dims)
    except ConfigError as error:
        return {"reason": error.message}
    image = torch.randn(BATCH, 1, *PATCH[:dims])
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.eval()(image[:1])
    return {
        "options": options,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gflop": round(counter.get_total_flops() / 1e9, 3),
        "step_cpu_s": round(time_step(network.train(), image), 4),
    }


def build(name: str, dims: int) -> tuple[dict[str, Any], Any]:
    """Return the options and the network of three levels of halving.

    Raises:
        ConfigError: It cannot be built so.
    """
    import inspect

    from medseg.core.select import select
    from medseg.models import MODELS, Grid

    known = inspect.signature(MODELS[name]).parameters
    options = OPTIONS.get(name, {key: value for key, value in SIZED.items() if key in known})
    strides = ((1,) * dims, *(((2,) * dims,) * 3))
    grid = Grid(dims, PATCH[:dims], SPACING_MM[:dims], strides, ((3,) * dims,) * 4)
    return options, select("model", MODELS, name, options)(1, CLASSES, grid)


def time_step(network: Any, image: Any) -> float:
    """Return the median CPU seconds of forward, loss, backward and an AdamW step, a sample."""
    import torch

    from medseg.losses import LOSSES, deep_supervised
    from medseg.train.precision import autocast, choose_precision

    device = torch.device("cpu")
    loss = deep_supervised(LOSSES["dice_focal"])
    label = torch.randint(0, CLASSES, image.shape[:1] + image.shape[2:])
    optimizer = torch.optim.AdamW(network.parameters())
    seconds = []
    for _ in range(STEPS + 1):
        started = time.process_time()
        optimizer.zero_grad()
        with autocast(device, choose_precision("auto", device)):
            value = loss(network(image), label)
        value.backward()
        optimizer.step()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:]) / BATCH


if __name__ == "__main__":
    sys.exit(main())
