"""Scans to draw labels on, labels to draw, and the programs that check what was written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.core.errors import DataError
from medseg.core.volume import Labels
from medseg.io.dicom import Options, Scan, choose_scans, find_series
from tests.dicom_edits import both, drop, put, raw
from tests.dicom_enhanced import in_order, write_enhanced
from tests.dicom_files import Grid, write_series

GRID = Grid(rows=9, columns=11)  # 99 pixels: frames of 1 bit a pixel begin in the middle of bytes
STEP_MM = 3.0
NAMES = {1: "one", 2: "two"}
GRIDS = {
    "axial": GRID,
    "axial, columns run to the front": replace(GRID, column=(0.0, -1.0, 0.0)),
    "axial, rows run to the right": replace(GRID, row=(-1.0, 0.0, 0.0)),
    "sagittal": replace(GRID, row=(0.0, 1.0, 0.0), column=(0.0, 0.0, -1.0)),
    "coronal": replace(GRID, row=(1.0, 0.0, 0.0), column=(0.0, 0.0, -1.0)),
    "oblique": GRID.turned(20, -30, 10),
    "tilted": replace(GRID, step_mm=(0.0, 0.8, 3.0)),
    "tilted by half pixels": replace(GRID, step_mm=(0.0, 0.625, 3.0)),
    "uneven": replace(GRID, at=(0.0, 1.0, 2.2, 3.1, 4.1)).turned(5, 15, 0),
    "one slice": replace(GRID, at=(0.0,)),
}
ENHANCED = {"enhanced": GRID, "enhanced, oblique": GRID.turned(40, 5, -20)}
SOURCES = (*GRIDS, *ENHANCED)
AS_THEY_ARE = tuple(name for name in SOURCES if not name.startswith(("tilted", "uneven")))
REAL_SCANS = (
    *(f"sts_dicom/STS_001/dicom/{name}/image" for name in ("CT", "PET", "MR_T1")),
    *(f"mr_dicom/Study1/{name}" for name in ("13_HCropVolume", "37916-T2reg-88910")),
)
"""Below MEDSEG_DATA; one lacks the date of birth."""

STRIPPED = drop("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "SeriesDate")
SPOILT = both(
    raw("PatientName", b"no name at all, 17"),
    raw("PatientBirthDate", b"1.4.1950"),
    raw("PatientSex", b"male"),
    raw("StudyTime", b"10:11"),
    raw("StudyID", b"S" * 20),
    raw("PatientAge", b"61", "AS"),
    raw("PatientSize", b"tall", "DS"),
    put(PatientIdentityRemoved="YES"),
)
INVENTED = both(
    raw("PatientBirthDate", b"19500231"),
    raw("StudyDate", b"00000000"),
    raw("ContentDate", b"20201301", "DA"),
    put(PatientSex="", StudyID=""),
)
"""Headers of careless exports: what is missing, of another form, or no date."""


def make_scan(folder: Path, name: str = "axial", **plan: Any) -> Scan:
    """Write one of `SOURCES` and return its scan, repaired if need be."""
    folder = folder / name.replace(" ", "_").replace(",", "")
    if name in ENHANCED:
        write_enhanced(folder / "enhanced.dcm", in_order([3, 1, 0, 4, 2], ENHANCED[name]))
    else:
        write_series(folder, GRIDS[name], **plan)
    return read_back(folder)


def read_back(folder: Path) -> Scan:
    return choose_scans(find_series(folder, Options(allow_tilt=True, allow_resample_z=True)))[0]


def make_labels(scan: Scan, seed: int = 0) -> Labels:
    """Return noise of two labels and background: holes, single pixels, diagonals and borders everywhere."""
    array = np.random.default_rng(seed).integers(0, 3, scan.geometry.shape)
    return Labels(array.astype(np.uint8), scan.geometry)


def rectangle(
    first: tuple[float, float], last: tuple[float, float], height_mm: float = 0.0
) -> NDArray[np.float64]:
    """Return (4, 3) LPS points around the pixels (column, row) from first to last of the axial scan."""
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    pixels = np.where(corners == 0, np.array(first) - 0.5, np.array(last) + 0.5)
    step = np.array([GRID.pixel_mm[1], GRID.pixel_mm[0]])
    return np.column_stack([pixels * step, np.full(4, height_mm)]) + GRID.origin_mm


def make_blocks(scan: Scan) -> Labels:
    """Return six blocks an axis, of two labels and background in turn, whatever the size of the scan."""
    i, j, k = (np.arange(n) * 6 // n for n in scan.geometry.shape)
    array = (i[:, None, None] + 2 * j[:, None] + k) % 4 % 3
    return Labels(array.astype(np.uint8), scan.geometry)


def paint(scan: Scan, value: int, *boxes: Sequence[slice]) -> Labels:
    """Return labels that are `value` in boxes of (columns, rows, slices)."""
    array: NDArray[np.uint8] = np.zeros(scan.geometry.shape, np.uint8)
    for box in boxes:
        array[tuple(box)] = value
    return Labels(array, scan.geometry)


def code_of(call: Callable[[], object]) -> str:
    """Return the code of the DataError that a call ends in."""
    with pytest.raises(DataError) as caught:
        call()
    return caught.value.code


def find_errors(path: Path) -> list[str]:
    """Return what the verifier of dicom3tools finds wrong with an object."""
    result = subprocess.run([find_program("dciodvfy"), path], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    assert lines, "the verifier names at least the kind of object"
    return [line for line in lines if line.startswith("Error")]


def find_program(name: str) -> str:
    """Return where a program is; without it a test is skipped, in CI it fails."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed")
    if found is None:
        pytest.skip(f"{name} is not installed: what is written is not verified by it")
    return found
