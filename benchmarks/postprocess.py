"""Largest components of 24 labels: one pass for all against one per label by scipy and by MONAI.

    python benchmarks/postprocess.py --json out/postprocess.json [--shape 512 512 300] [--runs 3]

A phantom of 24 wobbling organs, each with specks elsewhere, is cleaned by `keep_largest`, by scipy's `label`
label by label, and by MONAI's `KeepLargestConnectedComponent`, which needs scikit-image. All must give one
map. Each peer cleans `--peer-labels` labels, and its time is scaled to all of them: it goes label by label.
Timings alternate in one process; medians of CPU seconds are compared.

Exit: 0 targets met, 1 missed, 4 scikit-image is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
SPECKS = 20  # per label
TARGET = {"scipy": 10.0, "monai": 10.0}  # theirs / ours, at least


def main() -> int:
    """Time all sides, write the JSON and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 300], metavar="N")
    parser.add_argument("--labels", type=int, default=24, metavar="N")
    parser.add_argument("--peer-labels", type=int, default=2, metavar="N", help="cleaned by each peer")
    parser.add_argument("--runs", type=int, default=3, help="of each side (default: 3)")
    options = parser.parse_args()
    if find_spec("skimage") is None:
        print("not measured: scikit-image is not there", file=sys.stderr)
        return 4
    sys.path.insert(0, str(ROOT))
    labels = make_organs(options.shape, options.labels)
    some = np.unique(labels[labels > 0])[: options.peer_labels].tolist()
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: clean_ours(labels),
        "scipy": lambda: clean_scipy(labels, some),
        "monai": lambda: clean_monai(labels, some),
    }
    load, rows = os.getloadavg()[0], []
    for run in range(options.runs):
        results = {}
        for side, clean in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[side] = clean()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            scale = 1 if side == "ours" else options.labels / len(some)
            rows.append({"side": side, "run": run, "wall_s": wall * scale, "cpu_s": cpu * scale})
            print(json.dumps(rows[-1]), flush=True)
        judged = np.isin(labels, some)
        for side in ("scipy", "monai"):
            assert np.array_equal(results["ours"][judged], results[side][judged]), f"{side} differs"
    found = {side: median(rows, side) / median(rows, "ours") for side in TARGET}
    ok = all(found[side] >= TARGET[side] for side in TARGET)
    document = {"name": "postprocess", "rows": rows, "ratio": found, "target": TARGET, "ok": ok}
    document |= {"shape": options.shape, "labels": options.labels, "seconds": median(rows, "ours")}
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "load_before": round(load, 2)}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**document, "machine": machine}, indent=2) + "\n")
    for side, value in found.items():
        print(f"{side}: {value:.3g} times the CPU time (target {TARGET[side]:g})")
    return int(not ok)


def make_organs(shape: Sequence[int], count: int) -> Any:
    """Return (I, J, K) uint8: wobbling balls on a 4 x 3 x n lattice, and specks of each label anywhere."""
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    cells = (4, 3, -(-count // 12))
    edges = [n // cell for n, cell in zip(shape, cells)]
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in edges), indexing="ij", sparse=True)
    x, y, z = axes
    for label, place in enumerate(list(np.ndindex(*cells))[:count], start=1):
        radius = 0.8 + 0.1 * np.sin(9 * x + label) * np.cos(7 * y) + 0.08 * np.sin(11 * z + label)
        box = tuple(slice(at * n, (at + 1) * n) for at, n in zip(place, edges))
        labels[box][x**2 + y**2 + z**2 < radius**2] = label
        for at in rng.integers(0, np.array(shape) - 3, (SPECKS, 3)):
            labels[tuple(slice(a, a + 3) for a in at)] = label
    return labels


def clean_ours(labels: Any) -> Any:
    """Return the map with the largest component of each label."""
    from medseg.core.geometry import Geometry
    from medseg.postprocess import POSTPROCESS

    return POSTPROCESS["keep_largest"](labels, Geometry.of_spacing(labels.shape, (1, 1, 1)))


def clean_scipy(labels: Any, wanted: Sequence[int]) -> Any:
    """Return the map with the largest component of each label that is wanted, one pass a label."""
    from scipy.ndimage import label as number

    result = labels.copy()
    for value in wanted:
        mask = labels == value
        numbers, _ = number(mask, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(numbers.ravel())
        sizes[0] = 0
        result[mask & (numbers != sizes.argmax())] = 0
    return result


def clean_monai(labels: Any, wanted: Sequence[int]) -> Any:
    """Return what MONAI's transform makes of the map."""
    import torch
    from monai.transforms import KeepLargestConnectedComponent

    step = KeepLargestConnectedComponent(applied_labels=list(wanted), is_onehot=False, connectivity=3)
    return step(torch.from_numpy(labels)[None])[0].numpy()


def median(rows: list[Row], side: str) -> float:
    """Return the median CPU seconds of a side."""
    return statistics.median(row["cpu_s"] for row in rows if row["side"] == side)


if __name__ == "__main__":
    sys.exit(main())
