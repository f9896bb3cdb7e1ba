"""Good DICOM folders to be damaged: a kind of object and transfer syntax each; nothing in them is real."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items

from medseg.core.volume import Labels
from medseg.io.dicom import choose_scans, find_series
from medseg.io.dicom.elements import quiet
from medseg.io.dicom.labels.rtstruct_write import write_rtstruct
from medseg.io.dicom.labels.seg_write import write_seg
from tests import dicom_streams
from tests.dicom_enhanced import Object, in_order, write_enhanced
from tests.dicom_files import (
    AROUND_ZERO,
    AXIAL,
    FLAT_RAMP,
    LARGE,
    OBLIQUE,
    RAMP,
    SMALL_RAMP,
    Grid,
    Ramp,
    Store,
    write_series,
)
from tests.dicom_pixels import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, JPEG, RLE

LABELS = {1: "one", 2: "two"}


@dataclass(frozen=True)
class Seed:
    """A folder.

    Args:
        name: What it holds.
        files: Name -> content.
        weight: How often it is chosen, in relation to others.
        targets: Names of the files that are damaged.
    """

    name: str
    files: dict[str, bytes]
    weight: int
    targets: tuple[str, ...]


Write = Callable[[Path], object]


def series(grid: Grid = AXIAL, ramp: Ramp = RAMP, kind: str = "CT", **store: Any) -> Write:
    return lambda folder: write_series(folder, grid, ramp=ramp, kind=kind, store=Store(**store))


def enhanced(syntax: str) -> Write:
    made = Object("MR", Store(signed=True, syntax=syntax))
    return lambda folder: write_enhanced(folder / "all.dcm", in_order([2, 0, 4, 1, 3]), made)


def stream(syntax: str, data: bytes, bits: int) -> Write:
    """Return a writer of a series of compressed pictures of 12 x 10, all alike."""

    def write(folder: Path) -> None:
        def edit(dataset: Dataset, k: int) -> None:
            dataset.Rows, dataset.Columns, dataset.BitsStored, dataset.HighBit = 12, 10, bits, bits - 1
            dataset.add_new(0x7FE00010, "OB", encapsulate([data]))
            dataset[0x7FE00010].is_undefined_length = True

        write_series(folder, edit=edit, store=Store(syntax=RLE))
        for path in folder.iterdir():
            path.write_bytes(rename_syntax(path.read_bytes(), syntax))

    return write


def pet(folder: Path) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dose = Dataset()
        dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = "370000000", "6586.2"
        dose.RadiopharmaceuticalStartTime = "091112"
        dataset.RadiopharmaceuticalInformationSequence = Items([dose])
        dataset.Units, dataset.PatientWeight, dataset.DecayCorrection = "BQML", "70", "START"
        dataset.CorrectedImage = ["ATTN", "DECY"]
        dataset.AcquisitionDate, dataset.AcquisitionTime = dataset.SeriesDate, dataset.SeriesTime

    rescale = tuple((0.5 + 0.1 * k, 0.0) for k in range(5))
    write_series(folder, kind="PT", store=Store(rescale=rescale), edit=edit)


def labelled(kind: str) -> Write:
    """Return a writer of a series and of segments or structures of it."""

    def write(folder: Path) -> None:
        write_series(folder)
        (scan,) = choose_scans(find_series(folder))
        array = np.zeros(scan.geometry.shape, np.uint8)
        array[1:4, 1:3, 1:4], array[4:6, 2:5, 2] = 1, 2
        write_label = write_seg if kind == "SEG" else write_rtstruct
        write_label(folder / "label.dcm", Labels(array, scan.geometry), scan, LABELS)

    return write


def rename_syntax(data: bytes, syntax: str) -> bytes:
    """Return a file that claims another transfer syntax; the length of its group 2 is corrected."""
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    at = data.index(b"\x02\0\x10\0UI", 132, 1000)
    (old,) = struct.unpack_from("<H", data, at + 6)
    (group,) = struct.unpack_from("<L", data, 140)
    head = data[:140] + struct.pack("<L", group + len(value) - old) + data[144:at]
    return head + data[at : at + 6] + struct.pack("<H", len(value)) + value + data[at + 8 + old :]


SEEDS: dict[str, tuple[int, Write]] = {
    "explicit": (6, series()),
    "implicit": (6, series(OBLIQUE, kind="MR", syntax=IMPLICIT)),
    "big endian": (3, series(ramp=AROUND_ZERO, signed=True, syntax=BIG_ENDIAN)),
    "8 bit": (2, series(ramp=SMALL_RAMP, bits=8)),
    "deflated": (2, series(syntax=DEFLATED)),
    "PET": (4, pet),
    "enhanced": (6, enhanced(EXPLICIT)),
    "enhanced, deflated": (1, enhanced(DEFLATED)),
    "segments": (6, labelled("SEG")),
    "structures": (6, labelled("RTSTRUCT")),
    "run lengths": (1, series(syntax=RLE)),
    "enhanced, run lengths": (1, enhanced(RLE)),
    "JPEG lossless": (1, series(syntax=JPEG + "70")),
    "enhanced, JPEG lossless": (1, enhanced(JPEG + "57")),
    "JPEG-LS": (1, series(syntax=JPEG + "80")),
    "JPEG 2000": (1, series(LARGE, FLAT_RAMP, syntax=JPEG + "90")),
    "JPEG 12 bit": (1, stream(JPEG + "51", dicom_streams.JPEG_12, 12)),
    "HTJ2K": (1, stream(JPEG + "201", dicom_streams.HTJ2K, 16)),
}
"""Name -> how often it is chosen in relation to others, and what writes it. Decoding compressed pixels takes
a process, so these come less often."""


def make_seeds() -> list[Seed]:
    """Write every seed into a scratch folder, and return what is in its files."""
    seeds = []
    for name, (weight, write) in SEEDS.items():
        with tempfile.TemporaryDirectory() as scratch, quiet():
            write(Path(scratch))
            files = {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}
        targets = ("label.dcm",) if "label.dcm" in files else tuple(files)
        seeds.append(Seed(name, files, weight, targets))
    return seeds
