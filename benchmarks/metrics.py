"""All overlap and surface metrics of one large pair against MONAI's, and thousands of small pairs at once.

    python benchmarks/metrics.py --json out/metrics.json [--peer-labels 24] [--cases 1250 2500 5000]

The pair is 512 x 512 x 300 with 24 organs, the prediction every organ moved and frayed. Ours: counts, Dice,
IoU, precision, recall, volumes, HD, HD95, ASSD, NSD, boundary F1 and boundary IoU of all labels. The peer:
HD95 and surface Dice of MONAI, against our HD95 and NSD in the same run. It goes class by class, as one-hot
masks of all would fill 15 GB; of `--peer-labels` classes spread over all, its time scaled to all where these
are fewer. The same numbers must come out. Each side is a process of its own, timed without imports.

Small pairs are 24 x 24 x 12 with 3 labels, compared by `medseg evaluate` in one process and shown by
`medseg review`: seconds a case must not grow with their number, nor the peak memory. CPU seconds are
compared, as cores may be shared.

Exit: 0 targets met, 1 missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
SHAPE, LABELS, SPACING_MM = (512, 512, 300), 24, (0.8, 0.8, 1.5)
TOLERANCE_MM = 1.0
SURFACES = ("hd", "hd95", "assd", "nsd", "boundary_f1", "boundary_iou")
OVERLAPS = ("dice", "iou", "precision", "recall", "volume", "relative_volume_error")
TARGET = {
    "seconds": 30.0,  # at most
    "peak_mb": 3000.0,  # at most
    "monai": 5.0,  # theirs / ours, at least
    "growth": 1.25,  # seconds a case of the largest cohort / of the smallest, at most
    "growth_mb": 1.25,  # peak of the largest / of the smallest, at most
    "review_growth": 1.25,  # the same of the page
    "review_growth_mb": 1.25,
}
AT_LEAST = {"monai"}


def main() -> int:
    """Measure all sides, write the JSON and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--peer-labels", type=int, default=LABELS, metavar="N", help="of MONAI's side")
    parser.add_argument("--cases", type=int, nargs="*", default=[1250, 2500, 5000], metavar="N")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run_child(*options.child)))
        return 0
    load = os.getloadavg()[0]
    rows, found = compare_pair(options.peer_labels)
    if options.cases:
        cohorts = {n: measure_cohort(n) for n in options.cases}
        for verb, growth in (("evaluate", "growth"), ("review", "review_growth")):
            of_verb = [row for n in options.cases for row in cohorts[n] if row["side"] == verb]
            rows += of_verb
            first, last = of_verb[0], of_verb[-1]
            found[growth] = last["cpu_s"] / last["cases"] / (first["cpu_s"] / first["cases"])
            found[f"{growth}_mb"] = last["peak_mb"] / first["peak_mb"]
    ok = all(found[k] >= TARGET[k] if k in AT_LEAST else found[k] <= TARGET[k] for k in found)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "load_before": round(load, 2)}
    document = {"name": "metrics", "rows": rows, "ratio": found, "target": TARGET, "ok": ok}
    text = json.dumps({**document, "machine": machine}, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
    return int(not ok)


def compare_pair(peer_labels: int) -> tuple[list[Row], Row]:
    """Return the rows of both sides, and their figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.npz"
        start_child("make", str(path))  # not here: a child's peak would begin with what this process holds
        ours = start_child("ours", str(path))
        surfaces = start_child("surfaces", str(path))
        monai = start_child("monai", str(path), str(peer_labels))
    for label, values in monai["values"].items():
        for name, value in values.items():
            mine = ours["values"][label][name]
            assert abs(mine - value) <= 1e-4 * max(1, abs(value)), (label, name, mine, value)
    rows = [{key: value for key, value in row.items() if key != "values"} for row in (ours, surfaces, monai)]
    for row in rows:
        print(json.dumps(row), file=sys.stderr, flush=True)
    figures = {
        "seconds": ours["cpu_s"],
        "peak_mb": ours["peak_mb"],
        "monai": monai["cpu_s"] / surfaces["cpu_s"],
    }
    return rows, figures


def start_child(*arguments: str) -> Row:
    """Run one side in a process of its own and return what it printed."""
    command = [sys.executable, __file__, "--child", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def run_child(side: str, path: str, count: str = "0") -> Row:
    """Time one side, without its imports and without reading the pair; "make" writes the pair."""
    if side == "make":
        np.savez(path, *make_pair())
        return {"side": side}
    with np.load(path) as stored:
        reference, predicted = stored["arr_0"], stored["arr_1"]
    labels = np.linspace(1, LABELS, int(count) or LABELS).round().astype(int).tolist()
    if side == "monai":
        import monai.metrics  # noqa: F401
    else:
        import scipy.ndimage
        import scipy.spatial  # noqa: F401

        from medseg.metrics.chosen import choose_metrics

        names = ("hd95", "nsd") if side == "surfaces" else (*OVERLAPS, *SURFACES)
        chosen = choose_metrics(names, nsd_tolerance_mm=TOLERANCE_MM)
    wall, cpu = time.perf_counter(), time.process_time()
    if side == "monai":
        values = {str(label): run_monai(reference == label, predicted == label) for label in labels}
    else:
        from medseg.metrics import evaluate_case

        case = evaluate_case(reference, predicted, SPACING_MM, {v: str(v) for v in labels}, chosen)
        values = {str(label): dict(row.values) for label, row in case.labels.items()}
    scale = LABELS / len(labels)
    row: Row = {"side": side, "labels_timed": len(labels)}
    row |= {"wall_s": (time.perf_counter() - wall) * scale, "cpu_s": (time.process_time() - cpu) * scale}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**row, "peak_mb": peak, "values": values}


def run_monai(reference: Any, predicted: Any) -> dict[str, float]:
    """Return HD95 and surface Dice of one class."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    masks = [torch.from_numpy(mask)[None, None] for mask in (predicted, reference)]
    options = {"include_background": True, "spacing": list(SPACING_MM)}
    return {
        "hd95_mm": compute_hausdorff_distance(*masks, percentile=95, **options).item(),
        "nsd": compute_surface_dice(*masks, [TOLERANCE_MM], **options).item(),
    }


def make_pair() -> tuple[Any, Any]:
    """Return two (I, J, K) uint8 maps: wobbling organs on a lattice, in the second moved and frayed."""
    rng = np.random.default_rng(0)
    maps = np.zeros((2, *SHAPE), np.uint8)
    cells = (4, 3, 2)
    edges = [n // cell for n, cell in zip(SHAPE, cells)]
    axes = (np.linspace(-1, 1, n, dtype=np.float32) for n in edges)
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    for label, place in enumerate(np.ndindex(*cells), start=1):
        box = tuple(slice(at * n, (at + 1) * n) for at, n in zip(place, edges))
        for which, array in enumerate(maps):
            dx, dy, dz = which * rng.normal(0, 0.02, 3)
            radius = (
                0.7 + 0.1 * np.sin(9 * x + label) * np.cos(7 * y) + 0.05 * np.sin((11 + which) * z + label)
            )
            inside = (x - dx) ** 2 + (y - dy) ** 2 + (z - dz) ** 2 < radius**2
            array[box][inside] = label
    return maps[0], maps[1]


def measure_cohort(cases: int) -> list[Row]:
    """Evaluate and review `cases` small pairs with the commands, and return their own figures."""
    from medseg.core.geometry import Geometry
    from medseg.core.volume import Labels
    from medseg.io import write_labels

    rng = np.random.default_rng(0)
    grid = Geometry.of_spacing((24, 24, 12), SPACING_MM)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(cases):
            array = np.zeros(grid.shape, np.uint8)
            for label in (1, 2, 3):
                at = rng.integers(0, (16, 16, 6))
                array[tuple(slice(a, a + int(n)) for a, n in zip(at, rng.integers(2, 8, 3)))] = label
            for name, shift in (("reference", 0), ("predicted", 1)):
                moved = Labels(np.roll(array, shift, axis=0), grid)
                write_labels(Path(folder) / name / f"case{number:05d}.nii.gz", moved)
        masks = [f"{folder}/reference", f"{folder}/predicted"]
        rows = [run_verb("evaluate", cases, *masks, "-o", f"{folder}/out")]
        pair = ["--reference", masks[0], "--predicted", masks[1], "--no-open"]
        rows.append(run_verb("review", cases, f"{folder}/out", *pair))
        rows[1]["page_mb"] = (Path(folder) / "out/review.html").stat().st_size / 1e6
    for row in rows:
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def run_verb(verb: str, cases: int, *words: str) -> Row:
    """Run a command in one process and return what it says of itself."""
    command = [sys.executable, "-m", "medseg", verb, *words, "--json", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    summary = json.loads(done.stdout)["summary"]
    assert summary["done"] == (cases if verb == "evaluate" else min(cases, 200))
    row = {"side": verb, "cases": cases, "wall_s": summary["seconds"], "cpu_s": summary["cpu_seconds"]}
    return {**row, "peak_mb": summary["peak_rss_mb"]}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
