"""Does a CUDA device compute what the CPU computes? Precision, compiler, training, inference, torchrun.

    python benchmarks/gpu_check.py [--json FILE]      also: make gpu-check

conv3d, network   forward passes under bf16 and fp16 autocast against float32, one convolution of more than
                  2^31 values included where it fits (cuDNN went wrong there: pytorch#163539)
start             what `medseg train` asks before its first step: one batch in half precision and in float32
compiled          gradients of that batch from the compiled network and from the plain one, and both times
augmentation      the same draws done on the device and on the CPU (all but noise), and both times
memory            the planner's two-step probe within its cap, and a cap that nothing fits refused
training          100 steps on phantom patches without and with half precision: losses fall alike
infer             masks of one model on the device and on the CPU: at least 99.9 % of voxels equal
torchrun          one rank per GPU over NCCL (one GPU: one rank, and two over gloo on the CPU) ends with the
                  weights of one process; float32, SGD (Adam divides noise by noise where a gradient is 0)

Prints one JSON document. Exit: 0 all targets met, 1 one missed, 4 no CUDA device.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_engine
import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional

from medseg.data.phantom import write_ct_cohort
from medseg.inference.network import build_network
from medseg.io import read_labels
from medseg.tracking.store import Tracker
from medseg.train.precision import TOLERANCE
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.train import train_fold

Row = dict[str, Any]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TARGET = {
    "convolution_bf16": 1e-2,  # at most, relative; 8 bits of mantissa: 2^-9 = 2e-3 a rounding
    "convolution_fp16": 2e-3,  # at most, relative; 11 bits
    "network_bf16": 6e-2,  # at most, relative: some twenty layers, one rounding after the other
    "network_fp16": 1e-2,  # at most, relative
    "start": TOLERANCE,  # at most, relative: the product's own limit
    "compiled_off": 1e-3,  # at most, relative: another order of the same float32 sums
    "compiled_bf16": 0.1,  # at most, relative: fused, values between two operations are not rounded
    "compiled_fp16": 2e-2,  # at most, relative
    "patch_difference": 1e-3,  # at most, relative: float32 positions, to a thousandth of a voxel
    "equal_patch_voxels": 0.999,  # at least: labels change where a position is half-way between two voxels
    "memory_share": 1.0,  # at most
    "refused": 1.0,  # at least
    "loss_ratio": 1.2,  # at most, half precision over float32 after 100 steps
    "equal_voxels": 0.999,  # at least
    "weight_difference": 3e-5,  # at most, relative; without gradient averaging it is ten times that
}
MANY_VALUES = (1, 32, 448, 448, 352)  # 2.26e9 values
CASES = 8
FLOORS = {"equal_voxels", "equal_patch_voxels", "refused"}  # every other target is a ceiling


def main() -> int:
    """Run all checks, print the JSON, say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)  # a process that torchrun starts
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("NO_CUDA: torch sees no CUDA device, so nothing was checked", file=sys.stderr)
        print("  hint: run it on a machine with one, with a CUDA build of torch", file=sys.stderr)
        return 4
    device = torch.device(options.device)
    # TF32 is a third precision; equality is asked of float32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if options.rank_of:
        train_as_rank(options.rank_of, device)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(check(Path(scratch), device))
    document = {
        "name": "gpu_check",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        },
        "rows": rows,
        "ratio": {f"{row['check']} {row['what']}": row["value"] for row in rows},
        "target": TARGET,
        "ok": all(row["ok"] for row in rows),
    }
    text = json.dumps(document, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
    return 0 if document["ok"] else 1


def check(scratch: Path, device: torch.device) -> Iterator[Row]:
    """Yield one row per comparison: check, what, value, ok and what else is worth knowing."""
    data = scratch / "phantoms"
    write_ct_cohort(data, CASES, seed=0)
    yield from check_conv3d(device)
    runs = {amp: scratch / f"run_{amp}" for amp in ("off", *usable(device))}
    for amp, folder in runs.items():
        settings = ["train.epochs=4", "train.iterations_per_epoch=25", f"train.amp='{amp}'"]
        settings.append(f"device={device.type}")
        prepare(data, folder, settings if device.type == "cuda" else [*settings, *SMALL])
    run = RunFolder(runs["off"])
    yield from check_network(run, device)
    amps = ["off", *usable(device)] if device.type == "cuda" else usable(device)
    for found in (
        gpu_engine.check_start(run, scratch, device, amps),
        gpu_engine.check_patches(run, device),
        gpu_engine.check_memory(run, device),
    ):
        for name, what, value, target, more in found:
            yield judge(name, what, value, target) | more
    yield from check_training(runs)
    yield from check_infer(data, runs["off"], scratch, device)
    yield from check_torchrun(data, scratch, device)


SMALL = ("train.iterations_per_epoch=4", "model.options.features=[4,8,8,8]")  # to try this file on a CPU


def usable(device: torch.device) -> list[str]:
    """Return the half precisions to compare; a CPU trains in bf16 only."""
    if device.type == "cpu":
        return ["bf16"]
    return ["bf16", "fp16"] if torch.cuda.is_bf16_supported() else ["fp16"]


def check_conv3d(device: torch.device) -> Iterator[Row]:
    """Compare one 3 x 3 x 3 convolution with float32, on a common and on a very large input."""
    shape = (2, 32, 64, 64, 64) if device.type == "cuda" else (1, 8, 12, 12, 12)
    shapes = [shape]
    if device.type == "cuda" and torch.cuda.mem_get_info()[0] > 5 * 2 * int(np.prod(MANY_VALUES)):
        shapes.append(MANY_VALUES)
    for amp in usable(device):
        for shape in shapes:
            error = conv3d_error(shape, DTYPES[amp], device)
            yield judge(f"conv3d {amp}", "x".join(map(str, shape)), error, f"convolution_{amp}")


def conv3d_error(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> float:
    """Return the relative error of the last planes; the reference needs no more than those."""
    torch.manual_seed(0)
    weight = torch.randn(shape[1], shape[1], 3, 3, 3, device=device) / (shape[1] * 27) ** 0.5
    image = torch.randn(shape, device=device, dtype=dtype)
    kept = 4
    with torch.inference_mode():
        half = functional.conv3d(image, weight.to(dtype), padding=1)[:, :, -kept:].float()
        tail = functional.conv3d(image[:, :, -kept - 1 :].float(), weight, padding=1)[:, :, -kept:]
    return float((half - tail).norm() / tail.norm())


def check_network(run: RunFolder, device: torch.device) -> Iterator[Row]:
    """Compare the logits of a whole network with float32."""
    config, plan = run.load_config(), run.load_plan()
    torch.manual_seed(0)
    network = build_network(config.model, plan, len(config.data.channels), len(config.data.labels) + 1)
    network.to(device).eval()
    image = torch.randn((plan.batch_size, len(config.data.channels), *plan.patch), device=device)
    with torch.inference_mode():
        whole = network(image)
        for amp in usable(device):
            with torch.autocast(device.type, DTYPES[amp]):
                half = network(image).float()
            error = float((half - whole).norm() / whole.norm())
            equal = float((half.argmax(1) == whole.argmax(1)).float().mean())
            yield judge(f"network {amp}", "logits", error, f"network_{amp}", equal_classes=equal)


def prepare(data: Path, folder: Path, settings: list[str]) -> None:
    """Preprocess the phantoms into a run folder with these settings."""
    common = ["split.folds=4", "train.validate_cases=0", "memory_gb=8", "workers=1"]
    changes = [part for setting in (*common, *settings) for part in ("--set", setting)]
    run_medseg("preprocess", "phantom_ct", "--data", str(data), "-o", str(folder), *changes)


def run_medseg(*arguments: str) -> None:
    """Run a command; what it says goes to stderr, since stdout is one JSON document."""
    subprocess.run([sys.executable, "-m", "medseg", *arguments, "-q"], check=True, stdout=sys.stderr)


def train_one(folder: Path) -> list[dict[str, float]]:
    """Train fold 0 of a prepared run and return its history."""
    run, report = RunFolder(folder), Report("train")
    train_fold(run.load_config(), run, 0, progress=Progress(), tracker=Tracker.off(), report=report)
    for warning in report.extra["warnings"]:
        print(f"{warning['code']} {warning['message']}", file=sys.stderr)
    return read_history(folder)


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return the rows of fold 0's history.csv."""
    with (folder / "fold_0" / "history.csv").open(newline="") as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def check_training(runs: dict[str, Path]) -> Iterator[Row]:
    """Train with each precision; the loss must fall, and in half precision nearly as far."""
    whole = 0.0
    for amp, folder in runs.items():
        started = time.perf_counter()
        history = train_one(folder)
        first, last = history[0]["train/loss"], history[-1]["train/loss"]
        whole = whole or last
        row = judge(f"training {amp}", "loss over float32's", last / whole, "loss_ratio")
        row["ok"] = row["ok"] and last < first
        yield row | {
            "first_loss": first,
            "last_loss": last,
            "last_epoch_s": history[-1]["time/epoch_s"],
            "seconds": time.perf_counter() - started,
            "engine": json.loads((folder / "fold_0" / "engine.json").read_text()),
        }


def check_infer(data: Path, run: Path, scratch: Path, device: torch.device) -> Iterator[Row]:
    """Compare masks made on the device with those made on the CPU."""
    images = data / "imagesTr"
    for where in (device.type, "cpu"):
        out = scratch / f"masks_{where}"
        run_medseg("infer", str(images), "-m", str(run), "-o", str(out), "--device", where)
    equal, voxels, foreground = 0, 0, 0
    for path in sorted(images.iterdir()):
        ours, theirs = (
            read_labels(scratch / f"masks_{where}" / path.name).array for where in (device.type, "cpu")
        )
        equal += int((ours == theirs).sum())
        voxels += theirs.size
        foreground += int((theirs > 0).sum())
    row = judge("infer", f"{device.type} against cpu", equal / voxels, "equal_voxels")
    row["ok"] = row["ok"] and foreground > 0  # two empty masks would be equal, too
    yield row | {"foreground_voxels": foreground}


def check_torchrun(data: Path, scratch: Path, device: torch.device) -> Iterator[Row]:
    """Compare the weights that several ranks end with to those of one process."""
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    jobs = [(device, gpus)] if gpus else []
    if gpus < 2:
        jobs.append((torch.device("cpu"), 2))
    for where, ranks in jobs:
        batch = max(2, 2 * ranks)
        settings = [
            "train.epochs=2",
            "train.iterations_per_epoch=4",
            "train.amp='off'",
            "train.compile='off'",
        ]
        settings += ["train.optimizer=sgd", "train.learning_rate=1e-2"]
        settings += [f"grid.batch_size={batch}", f"device={where.type}"]
        settings += ["threads=1", *SMALL[1:]] if where.type == "cpu" else []
        folders = [scratch / f"{where.type}_{ranks}_{part}" for part in ("alone", "ranks")]
        for folder in folders:
            prepare(data, folder, settings)
        start_ranks(folders[0], where, 0)
        start_ranks(folders[1], where, ranks)
        first, last = (row["train/loss"] for row in read_history(folders[1]))
        difference = compare_weights(*folders)
        backend = "nccl" if where.type == "cuda" else "gloo"
        what = f"{ranks} x {backend}, batch {batch}"
        row = judge("torchrun", what, difference, "weight_difference", first_loss=first, last_loss=last)
        row["ok"] = row["ok"] and first != last
        yield row


def start_ranks(folder: Path, device: torch.device, ranks: int) -> None:
    """Train a prepared run in a process of its own (0), or in ranks of torchrun."""
    launcher = [sys.executable]
    if ranks:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*launcher, __file__, "--device", device.type, "--rank-of", str(folder)]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"})


def train_as_rank(folder: Path, device: torch.device) -> None:
    """Train as torchrun's environment says; a single rank joins a group of one, so that NCCL is used."""
    alone = os.environ.get("WORLD_SIZE") == "1"
    if alone:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        train_one(folder)
    finally:
        if alone:
            dist.destroy_process_group()


def compare_weights(alone: Path, ranks: Path) -> float:
    """Return |difference| / |weights| over all tensors of fold 0's own (not averaged) weights."""
    states = [
        torch.load(folder / "fold_0" / "checkpoint.pt", map_location="cpu", weights_only=True)["network"]
        for folder in (alone, ranks)
    ]
    one, many = (torch.cat([value.double().ravel() for value in state.values()]) for state in states)
    return float((one - many).norm() / one.norm())


def judge(name: str, what: str, value: float, target: str, **more: float) -> Row:
    """Return a row; NaN fails."""
    limit = TARGET[target]
    ok = value >= limit if target in FLOORS else value <= limit
    return {"check": name, "what": what, "value": value, "target": limit, "ok": bool(ok), **more}


if __name__ == "__main__":
    sys.exit(main())
