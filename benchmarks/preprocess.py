"""Preprocessing against nnU-Net v2: one big CT resampled, and a whole cohort prepared.

    python benchmarks/preprocess.py --json out/preprocess.json [--only resample|cohort]

resample: a phantom CT of 512 x 512 x 300 voxels to 1.5 mm, our spline matrices against the call that
nnU-Net makes by default (scikit-image, cubic, float64). Each run is a process of its own that loads
the same file, so that its peak memory is its own; runs alternate, medians are compared.

cohort: fingerprint, plan and preprocessed store of the Hippocampus cases in $MEDSEG_DATA by
`medseg preprocess` against `nnUNetv2_plan_and_preprocess -c 3d_fullres`, both as a user starts them
(imports included), two workers each, CPU seconds of the whole process tree.

Exit: 0 targets met, 1 missed, 4 nnU-Net or the data is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nnunet_env
import numpy as np

Row = dict[str, Any]

SHAPE = (512, 512, 300)
SPACING_MM = (0.75, 0.75, 1.0)
TARGET_MM = 1.5
WORKERS = 2
TARGET = {  # ratios: theirs / ours, at least; the difference: at most
    "resample_wall": 5.0,
    "resample_cpu": 4.0,
    "resample_peak_memory": 3.0,
    "resample_difference_hu": 0.01,
    "cohort_cpu": 3.0,
}


def main() -> int:
    """Run the parts asked for, write the JSON and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--only", choices=["resample", "cohort"])
    parser.add_argument("--runs", type=int, default=5, help="of each side, resample (default: 5)")
    parser.add_argument("--cohort-runs", type=int, default=3, help="of each side, cohort (default: 3)")
    parser.add_argument("--nnunet-env", type=Path, default=nnunet_env.DEFAULT, metavar="DIR")
    options = parser.parse_args()
    rows: list[Row] = []
    found: dict[str, float] = {}
    load = os.getloadavg()[0]
    missing = ""
    if options.only != "cohort":
        found |= compare_resampling(rows, options.runs)
    if options.only != "resample":
        try:
            found |= compare_cohorts(rows, options.cohort_runs, options.nnunet_env)
        except (nnunet_env.NotInstallable, LookupError) as error:
            missing = str(error)
    ok = not missing and all(is_met(name, value) for name, value in found.items())
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "load_before": round(load, 2)}
    document = {"name": "preprocess", "rows": rows, "ratio": found, "target": TARGET, "ok": ok}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**document, "machine": machine, "missing": missing}, indent=2) + "\n")
    for name, value in found.items():
        print(f"{name}: {value:.4g} (target {TARGET[name]:g}) {'ok' if is_met(name, value) else 'MISSED'}")
    if missing:
        print(f"not measured: {missing}", file=sys.stderr)
    return 4 if missing else int(not ok)


def is_met(name: str, value: float) -> bool:
    """Say whether a figure reaches its target."""
    return value <= TARGET[name] if "difference" in name else value >= TARGET[name]


# ---- one big CT ---------------------------------------------------------------------------------


def compare_resampling(rows: list[Row], runs: int) -> dict[str, float]:
    """Return the ratios theirs / ours and the largest difference."""
    with tempfile.TemporaryDirectory() as folder:
        write_phantom(Path(folder, "ct.npy"))
        for _ in range(runs):
            for side in SIDES:
                rows.append(run_child(side, folder))
        ours, theirs = (np.load(Path(folder, f"{side}.npy"), mmap_mode="r") for side in SIDES)
        difference = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    wall, cpu, memory = (ratio(rows, "resample", key) for key in ("wall_s", "cpu_s", "peak_mb"))
    return {
        "resample_wall": wall,
        "resample_cpu": cpu,
        "resample_peak_memory": memory,
        "resample_difference_hu": difference,
    }


def write_phantom(path: Path) -> None:
    """Write an int16 CT: air, a body with fat, soft tissue and bone of sharp edges, and noise."""
    rng = np.random.default_rng(0)
    volume = np.lib.format.open_memmap(path, mode="w+", dtype=np.int16, shape=SHAPE)
    y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE[1:]), indexing="ij")
    for plane, x in zip(volume, np.linspace(-1, 1, SHAPE[0], dtype=np.float32), strict=True):
        radius = np.hypot(x / 0.8, y / 0.6)
        hu = np.select([radius > 1, radius > 0.9], [-1000, -100], 40 + 30 * np.sin(9 * z + 5 * x))
        hu[np.hypot(x, y + 0.3) < 0.12 + 0.04 * np.sin(40 * z)] = 900
        plane[:] = np.clip(hu + rng.normal(0, 25, hu.shape), -1024, 3071)
    volume.flush()


def run_child(side: str, folder: str) -> Row:
    """Resample in a fresh process and return what it measured."""
    command = [sys.executable, __file__, "--child", side, folder]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def child(side: str, folder: str) -> None:
    """Load the CT, resample it, save the result and print time and peak memory."""
    resample = SIDES[side]()
    volume = np.load(Path(folder, "ct.npy"))
    shape = tuple(round(n * mm / TARGET_MM) for n, mm in zip(SHAPE, SPACING_MM, strict=True))
    wall, cpu = time.perf_counter(), time.process_time()
    result = resample(volume, shape)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    np.save(Path(folder, f"{side}.npy"), result)
    row = {"part": "resample", "side": side, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak_kb / 1024}
    print(json.dumps(row))


def load_ours() -> Callable[..., Any]:
    """Return our resampling, imported."""
    from medseg.data.resample import resample_image

    return lambda volume, shape: resample_image(volume[None], shape)[0]


def load_theirs() -> Callable[..., Any]:
    """Return what nnunetv2's `resample_data_or_seg` does to an image channel."""
    from skimage.transform import resize

    def resample(volume: Any, shape: tuple[int, ...]) -> Any:
        result = np.zeros(shape, np.float32)
        result[...] = resize(volume.astype(float), shape, 3, mode="edge", anti_aliasing=False)
        return result

    return resample


SIDES = {"ours": load_ours, "theirs": load_theirs}


# ---- a cohort -----------------------------------------------------------------------------------


def compare_cohorts(rows: list[Row], runs: int, nnunet_folder: Path) -> dict[str, float]:
    """Return the ratio of CPU seconds.

    Raises:
        LookupError: $MEDSEG_DATA is unset or lacks the cohort.
        NotInstallable: nnU-Net.
    """
    data = Path(os.environ.get("MEDSEG_DATA", ""), "hippocampus")
    if not (data / "dataset.json").exists():
        raise LookupError("set MEDSEG_DATA to the folder that holds hippocampus/dataset.json")
    programs = nnunet_env.ensure(nnunet_folder)
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure("ours", our_command(data, Path(folder, "run")), dict(os.environ)))
        with tempfile.TemporaryDirectory() as folder:
            environment = nnunet_env.environment(Path(folder))
            convert(data, Path(environment["nnUNet_raw"], "Dataset004_Hippocampus"))
            rows.append(measure("theirs", nnunet_command(programs), environment))
    return {"cohort_cpu": ratio(rows, "cohort", "cpu_s")}


def our_command(data: Path, out: Path) -> list[str]:
    """Return the command a user of medseg types."""
    options = ["--data", str(data), "-o", str(out), "-q", "--set", f"workers={WORKERS}"]
    return [sys.executable, "-m", "medseg", "preprocess", "hippocampus_mr", *options]


def nnunet_command(programs: Path) -> list[str]:
    """Return the command a user of nnU-Net types; its integrity check stays off."""
    options = ["-d", "4", "-c", "3d_fullres", "-np", str(WORKERS), "-npfp", str(WORKERS), "--no_pbar"]
    return [str(programs / "nnUNetv2_plan_and_preprocess"), *options]


def convert(data: Path, raw: Path) -> None:
    """Lay the MSD data set out as nnU-Net wants it, with links."""
    msd = json.loads((data / "dataset.json").read_text())
    for kind in ("imagesTr", "labelsTr"):
        (raw / kind).mkdir(parents=True)
    for case in msd["training"]:
        image, label = (data / case[kind] for kind in ("image", "label"))
        (raw / "imagesTr" / image.name.replace(".nii.gz", "_0000.nii.gz")).symlink_to(image)
        (raw / "labelsTr" / label.name).symlink_to(label)
    dataset = {
        "channel_names": msd["modality"],
        "labels": {name: int(value) for value, name in msd["labels"].items()},
        "numTraining": len(msd["training"]),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))


def measure(side: str, command: list[str], environment: dict[str, str]) -> Row:
    """Run a command to its end; CPU seconds are those of all its processes."""
    with tempfile.TemporaryFile("w+") as log:
        load, start = os.getloadavg()[0], time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        if process.returncode:
            log.seek(0)
            tail = "".join(log.readlines()[-15:])
            raise SystemExit(f"{command[0]} ended with {process.returncode}:\n{tail}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"part": "cohort", "side": side, "wall_s": wall, "cpu_s": cpu, "load_before": round(load, 2)}


def ratio(rows: list[Row], part: str, key: str) -> float:
    """Return the median of theirs over the median of ours."""

    def median(side: str) -> float:
        return statistics.median(row[key] for row in rows if (row["part"], row["side"]) == (part, side))

    return median("theirs") / median("ours")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:4])
    else:
        sys.exit(main())
