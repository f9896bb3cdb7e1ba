"""`medseg convert` against dcm2niix and SimpleITK, and how fast headers are indexed.

    python benchmarks/convert.py --json out/convert.json [--only convert|index]

convert: a synthetic CT series of 400 slices of 512 x 512 (a body, bones, lungs and noise, so that it
compresses as a scan does) to .nii.gz, by each side as a user starts it: `medseg convert`, `dcm2niix -z i`,
and SimpleITK's series reader and writer in a Python process. Sides alternate; wall and CPU seconds and peak
memory are those of the process tree, start-up included; medians are compared. Our volume must equal
dcm2niix's, voxel by voxel.

index: the headers of 2,000 files in 5 series, in a process of its own, imports included.

Exit: 0 targets met, 1 missed, 4 dcm2niix is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

Row = dict[str, Any]

SLICES, SIZE = 400, 512
SPACING_MM, STEP_MM = 0.78125, 1.25
INDEXED, INDEXED_SERIES, INDEXED_SIZE = 2000, 5, 256
ROOT = "1.2.826.0.1.3680043.8.498.9"
TARGET = {  # at most
    "convert_wall_to_dcm2niix": 1.5,
    "convert_wall_to_simpleitk": 1.0,
    "convert_differing_voxels": 0,
    "index_s": 10.0,
}


def main() -> int:
    """Run the parts asked for, write the JSON and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--only", choices=["convert", "index"])
    parser.add_argument("--runs", type=int, default=5, help="of each side (default: 5)")
    parser.add_argument("--dcm2niix", default=find_dcm2niix(), help="the program (default: beside python)")
    options = parser.parse_args()
    if not options.dcm2niix:
        print("not measured: dcm2niix is not installed", file=sys.stderr)
        return 4
    rows: list[Row] = []
    found: dict[str, float] = {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "index":
            found |= compare_converters(rows, Path(folder), options.runs, options.dcm2niix)
        if options.only != "convert":
            found |= time_indexing(rows, Path(folder), options.runs)
    ok = all(value <= TARGET[name] for name, value in found.items())
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "load_before": round(load, 2)}
    document = {"name": "convert", "rows": rows, "ratio": found, "target": TARGET, "ok": ok}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**document, "machine": machine}, indent=2) + "\n")
    for name, value in found.items():
        verdict = "ok" if value <= TARGET[name] else "MISSED"
        print(f"{name}: {value:.4g} (at most {TARGET[name]:g}) {verdict}")
    return int(not ok)


def find_dcm2niix() -> str | None:
    """Return the program of this environment, which is the faster build, or the system's."""
    beside = Path(sys.executable).with_name("dcm2niix")
    return str(beside) if beside.exists() else shutil.which("dcm2niix")


# ---- the series ---------------------------------------------------------------------------------


def run_child(*arguments: object) -> str:
    """Do what needs memory in a process of its own: a child's peak counts what its parent held."""
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def child(what: str, *arguments: str) -> None:
    """Write a series, or print in how many voxels two converted volumes differ."""
    if what == "write":
        folder, slices, size, series = arguments
        write_series(Path(folder), int(slices), int(size), int(series))
    else:
        print(count_differing(*map(Path, arguments)))


def write_series(folder: Path, slices: int, size: int, series: int) -> None:
    """Write a CT series, a file a slice."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(series)
    for k in range(slices):
        make_slice(k, slices, paint(k / slices * 2 - 1, size, rng), series).save_as(
            folder / f"IM{k:05d}", enforce_file_format=True
        )


def paint(z: float, size: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """Return one slice in HU: air, fat, muscle, lungs, spine and noise."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    y, x = np.meshgrid(line, line, indexing="ij")
    radius = np.hypot(x / 0.8, y / 0.6)
    hu = np.select([radius > 1, radius > 0.9], [-1000, -100], 40 + 30 * np.sin(9 * z + 5 * x))
    for side in (-1, 1):
        hu[np.hypot((x - side * 0.35) / 0.25, (y + 0.05) / 0.35) < 1 - z * z] = -850
    hu[np.hypot(x, y - 0.35) < 0.12 + 0.02 * np.sin(40 * z)] = 900
    hu += np.where(radius > 1.05, rng.normal(0, 2, hu.shape), rng.normal(0, 12, hu.shape))
    return np.asarray(np.clip(hu, -1024, 3071).astype(np.int16))


def make_slice(k: int, slices: int, hu: NDArray[np.int16], series: int) -> Dataset:
    """Return slice k of `slices` as a CT image; nobody's data."""
    slice_ = Dataset()
    slice_.file_meta = FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, f"{ROOT}.{series}.{k + 1}"
    slice_.file_meta.MediaStorageSOPClassUID = CTImageStorage
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
    slice_.PatientName, slice_.PatientID, slice_.PatientBirthDate, slice_.PatientSex = "", "phantom", "", ""
    slice_.StudyInstanceUID, slice_.SeriesInstanceUID = f"{ROOT}.0", f"{ROOT}.{series}"
    slice_.FrameOfReferenceUID = f"{ROOT}.0.1"
    slice_.Modality, slice_.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    slice_.StudyDate, slice_.StudyTime = "20200102", "101112"
    slice_.SeriesNumber, slice_.InstanceNumber, slice_.AcquisitionNumber = series, k + 1, 1
    corner = -SPACING_MM * (len(hu) - 1) / 2
    slice_.ImagePositionPatient = [corner, corner, STEP_MM * (k - slices / 2)]
    slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    slice_.PixelSpacing, slice_.SliceThickness = [SPACING_MM, SPACING_MM], STEP_MM
    slice_.PatientPosition = "HFS"
    slice_.Rows, slice_.Columns = hu.shape
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
    slice_.RescaleSlope, slice_.RescaleIntercept, slice_.RescaleType = 1, -1024, "HU"
    slice_.PixelData = (hu + np.int16(1024)).tobytes()
    return slice_


# ---- converting ---------------------------------------------------------------------------------

SIMPLEITK = """
import sys
import SimpleITK as sitk
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(sys.argv[1]))
sitk.WriteImage(reader.Execute(), sys.argv[2] + "/series.nii.gz", useCompression=True)
"""


def compare_converters(rows: list[Row], folder: Path, runs: int, dcm2niix: str) -> dict[str, float]:
    """Return ours over theirs, and in how many voxels our volume is not dcm2niix's."""
    series = folder / "series"
    run_child("write", series, SLICES, SIZE, 1)
    environment = {**os.environ, "MEDSEG_HOME": str(folder / "home")}
    commands = {
        "medseg": [sys.executable, "-m", "medseg", "convert", str(series), "-q", "-o"],
        "dcm2niix": [dcm2niix, "-z", "i", str(series)],
        "simpleitk": [sys.executable, "-c", SIMPLEITK, str(series)],
    }
    differing = 0
    for _ in range(runs):
        outs = {side: folder / f"out_{side}" for side in commands}
        for side, command in commands.items():
            shutil.rmtree(outs[side], ignore_errors=True)
            outs[side].mkdir()
            place = ["-o", str(outs[side]), *command[3:]] if side == "dcm2niix" else [str(outs[side])]
            start = command[:3] if side == "dcm2niix" else command
            rows.append(measure("convert", side, [*start, *place], environment))
        differing += int(run_child("compare", outs["medseg"], outs["dcm2niix"]))
    return {
        "convert_wall_to_dcm2niix": ratio(rows, "medseg", "dcm2niix"),
        "convert_wall_to_simpleitk": ratio(rows, "medseg", "simpleitk"),
        "convert_differing_voxels": differing,
    }


def count_differing(ours: Path, theirs: Path) -> int:
    """Return how many voxels differ once both lie in one orientation; all of them, where grids do."""
    pair = [nibabel.load(next(folder.glob("*.nii.gz"))) for folder in (ours, theirs)]
    first, second = (nibabel.as_closest_canonical(image) for image in pair)
    if first.shape != second.shape or np.abs(first.affine - second.affine).max() > 1e-3:
        return int(np.prod(first.shape))
    return int(np.count_nonzero(np.asanyarray(first.dataobj) != np.asanyarray(second.dataobj)))


def measure(part: str, side: str, command: list[str], environment: dict[str, str]) -> Row:
    """Run a command to its end; CPU seconds and peak memory are those of all its processes."""
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
    cpu, peak_mb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    row = {"part": part, "side": side, "wall_s": wall, "cpu_s": cpu, "peak_mb": round(peak_mb, 1)}
    return {**row, "load_before": round(load, 2)}


def ratio(rows: list[Row], ours: str, theirs: str) -> float:
    """Return the median wall time of ours over that of theirs."""

    def median(side: str) -> float:
        return statistics.median(row["wall_s"] for row in rows if row["side"] == side)

    return median(ours) / median(theirs)


# ---- indexing -----------------------------------------------------------------------------------

INDEX = """
import sys
from pathlib import Path
from medseg.io.dicom import find_series
index = find_series(Path(sys.argv[1]))
assert sum(len(series.instances) for series in index.series) == int(sys.argv[2])
"""


def time_indexing(rows: list[Row], folder: Path, runs: int) -> dict[str, float]:
    """Return the median wall seconds of indexing `INDEXED` headers."""
    root = folder / "many"
    for series in range(1, INDEXED_SERIES + 1):
        run_child("write", root / f"series_{series}", INDEXED // INDEXED_SERIES, INDEXED_SIZE, series)
    command = [sys.executable, "-c", INDEX, str(root), str(INDEXED)]
    for _ in range(runs):
        rows.append(measure("index", "medseg index", command, dict(os.environ)))
    return {"index_s": statistics.median(row["wall_s"] for row in rows if row["part"] == "index")}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(main())
