"""Writes DICOM series whose voxels say where they are: stored value = a ramp in patient millimetres.

A wrong flip, order, spacing, shift or rescale therefore shows without another reader. Everything in here is
in DICOM's own terms (LPS+ millimetres, row distance before column distance); grids are 7 columns, 6 rows, 5
slices of 0.75 x 1.25 x 3 mm unless said otherwise. `Truth` is what a reader must make of a series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from tests.dicom_compress import MIN_J2K, compress

Array = NDArray[Any]
Vector = tuple[float, float, float]
Edit = Callable[[Dataset, int], None]
"""Changes the header of slice k, last of all."""

ROOT = "1.2.826.0.1.3680043.8.498.7"
SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
ANCHOR = np.array([-10.0, 23.0, 46.0])
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Ramp:
    """Value at a point = base + per_mm . (point - ANCHOR); no two axes are alike."""

    per_mm: Vector = (10.0, 23.0, 37.0)
    base: float = 1000.0

    def at(self, points_lps: Array) -> Array:
        """Return the values at (..., 3) points in LPS millimetres."""
        return np.asarray(self.base + (np.asarray(points_lps) - ANCHOR) @ np.array(self.per_mm))


RAMP = Ramp()
SMALL_RAMP = Ramp((2.0, 5.0, 9.0), 128.0)
"""Stays within 0..255 on the usual grid."""
FLAT_RAMP = Ramp((10.0, 13.0, 17.0))
AROUND_ZERO = Ramp(base=-100.0)


def to_vector(values: Array) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z


@dataclass(frozen=True)
class Grid:
    """Where the pixels lie.

    Args:
        origin_mm: Centre of the first pixel of slice 0.
        row, column: Direction along a row, along a column.
        pixel_mm: Distance of rows, of columns.
        step_mm: From a slice to the next; by default 3 mm along the normal.
        at: Where the slices are, in steps; by default 0, 1, 2, ...
    """

    origin_mm: Vector = (-13.0, 21.0, 40.0)
    row: Vector = (1.0, 0.0, 0.0)
    column: Vector = (0.0, 1.0, 0.0)
    pixel_mm: tuple[float, float] = (1.25, 0.75)
    step_mm: Vector | None = None
    rows: int = 6
    columns: int = 7
    at: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 4.0)

    @property
    def normal(self) -> Array:
        return np.cross(self.row, self.column)

    @property
    def step(self) -> Array:
        return 3.0 * self.normal if self.step_mm is None else np.array(self.step_mm)

    def position(self, k: int) -> Array:
        return np.asarray(np.array(self.origin_mm) + self.at[k] * self.step)

    def points(self, k: int) -> Array:
        """Return (rows, columns, 3) centres of the pixels of slice k."""
        rows, columns = np.mgrid[: self.rows, : self.columns][..., None] * 1.0
        along = columns * self.pixel_mm[1] * np.array(self.row)
        return np.asarray(self.position(k) + along + rows * self.pixel_mm[0] * np.array(self.column))

    @property
    def affine_ras(self) -> Array:
        """(4, 4) of (column, row, slice) to RAS+; slices one step apart."""
        affine = np.eye(4)
        affine[:3, 0] = np.array(self.row) * self.pixel_mm[1]
        affine[:3, 1] = np.array(self.column) * self.pixel_mm[0]
        affine[:3, 2] = self.step * (self.at[1] - self.at[0] if len(self.at) > 1 else 1)
        affine[:3, 3] = self.position(0)
        return np.asarray(LPS_TO_RAS @ affine)

    def turned(self, x: float = 0, y: float = 0, z: float = 0) -> Grid:
        """Return the grid turned by degrees around x, then y, then z, about its first pixel."""
        turn = np.eye(3)
        for axis, degrees in enumerate((x, y, z)):
            a, b = ((1, 2), (2, 0), (0, 1))[axis]
            c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
            one = np.eye(3)
            one[a, a], one[a, b], one[b, a], one[b, b] = c, -s, s, c
            turn = one @ turn
        step = None if self.step_mm is None else to_vector(turn @ self.step)
        row, column = to_vector(turn @ np.array(self.row)), to_vector(turn @ np.array(self.column))
        return replace(self, row=row, column=column, step_mm=step)


AXIAL = Grid()
SAGITTAL = Grid(row=(0, 1, 0), column=(0, 0, -1))
CORONAL = Grid(row=(1, 0, 0), column=(0, 0, -1))
OBLIQUE = Grid().turned(x=25)
DOUBLE_OBLIQUE = Grid().turned(17, -31, 8)
LARGE = Grid(rows=MIN_J2K, columns=MIN_J2K + 3)


@dataclass(frozen=True)
class Truth:
    """One volume that may come out of a folder, and how far its values may be off (rounding)."""

    grid: Grid
    ramp: Ramp = RAMP
    slack: float = 0.55


@dataclass(frozen=True)
class Store:
    """How values become pixel data: stored = (value - intercept) / slope.

    Args:
        rescale: Slope and intercept, slice by slice, from the start again where there are fewer; () for none.
        dirt: Set in the bits above BitsStored.
    """

    bits: int = 16
    stored: int = 0
    high: int = 0
    signed: bool = False
    rescale: tuple[tuple[float, float], ...] = ((1.0, 0.0),)
    syntax: str = ExplicitVRLittleEndian
    dirt: int = 0

    @property
    def stored_bits(self) -> int:
        return self.stored or self.bits

    def encode(self, values: Array, k: int) -> Array:
        """Return the stored integers of one slice; refuses to write what does not fit."""
        slope, intercept = self.rescale[k % len(self.rescale)] if self.rescale else (1.0, 0.0)
        whole = np.rint((values - intercept) / slope).astype(np.int64)
        low, high = (-(2 ** (self.stored_bits - 1)), 2 ** (self.stored_bits - 1) - 1)
        low, high = (low, high) if self.signed else (0, 2**self.stored_bits - 1)
        assert low <= whole.min() and whole.max() <= high, f"{whole.min()}..{whole.max()} in {low}..{high}"
        raw = whole & (2**self.stored_bits - 1) if self.stored else whole
        shift = (self.high or self.stored_bits - 1) - (self.stored_bits - 1)
        return np.asarray((raw << shift) | self.dirt).astype(f"<u{self.bits // 8}")


@dataclass(frozen=True)
class Plan:
    """All that makes one single-frame series but its grid."""

    ramp: Ramp = RAMP
    store: Store = field(default_factory=Store)
    kind: str = "CT"
    series: int = 1
    study: int = 1
    patient: str = "P-1"
    name: str = "{folder}/slice_{k:03d}.dcm"
    first: int = 0  # number of the first file, so that several plans share a folder
    edit: Edit | None = None


def write_series(folder: Path, grid: Grid = AXIAL, **plan: Any) -> Truth:
    """Write one file a slice; `plan` are the fields of `Plan`, and `slack` that of the truth."""
    slack = plan.pop("slack", None)
    made = Plan(**plan)
    for k in range(len(grid.at)):
        dataset = make_slice(grid, k, made)
        name = made.name.format(folder=folder, k=k + made.first, h=hash_text(k + made.first))
        save(Path(name), dataset, made.store.syntax)
    rounding = max((abs(slope) for slope, _ in made.store.rescale), default=1.0) / 2
    return Truth(grid, made.ramp, rounding + 0.05 if slack is None else slack)


def make_slice(grid: Grid, k: int, plan: Plan) -> Dataset:
    """Return slice k as a data set without a file header."""
    store = plan.store
    dataset = make_header(plan.kind, series=plan.series, study=plan.study, patient=plan.patient)
    dataset.SOPInstanceUID = make_uid(plan.study, plan.series, plan.first + k + 1)
    dataset.InstanceNumber = plan.first + k + 1
    with config.disable_value_validation():
        dataset.ImagePositionPatient = texts(grid.position(k))
        dataset.ImageOrientationPatient = texts((*grid.row, *grid.column))
        dataset.PixelSpacing = texts(grid.pixel_mm)
        dataset.SliceThickness = texts([float(np.linalg.norm(grid.step))])[0]
        if store.rescale:
            slope, intercept = store.rescale[k % len(store.rescale)]
            dataset.RescaleSlope, dataset.RescaleIntercept = texts((slope, intercept))
    stored = store.encode(plan.ramp.at(grid.points(k)), k)
    set_pixels(dataset, stored[None], store)
    if plan.edit is not None:
        with config.disable_value_validation():
            plan.edit(dataset, k)
    return dataset


def make_header(kind: str, *, series: int = 1, study: int = 1, patient: str = "P-1") -> Dataset:
    """Return what every object has; nobody's data."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = SOP_CLASSES.get(kind, CTImageStorage)
    dataset.Modality = kind
    dataset.PatientName, dataset.PatientID = "Nobody^At All", patient
    dataset.PatientBirthDate, dataset.PatientSex = "19010203", "O"
    dataset.StudyDate = dataset.SeriesDate = "20200102"
    dataset.StudyTime = dataset.SeriesTime = "101112"
    dataset.Manufacturer = "Phantom Works"
    dataset.StudyInstanceUID = make_uid(study)
    dataset.SeriesInstanceUID = make_uid(study, series)
    dataset.FrameOfReferenceUID = make_uid(study, 0, 9)
    dataset.StudyID, dataset.SeriesNumber = str(study), series
    dataset.PatientPosition = "HFS"
    return dataset


def set_pixels(dataset: Dataset, stored: Array, store: Store) -> None:
    """Put (frames, rows, columns) stored integers into a data set, compressed where the syntax says so."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[1:]
    dataset.BitsAllocated, dataset.BitsStored = store.bits, store.stored_bits
    dataset.HighBit = store.high or store.stored_bits - 1
    dataset.PixelRepresentation = int(store.signed)
    ordered = stored.astype(stored.dtype.newbyteorder(">")) if store.syntax == ExplicitVRBigEndian else stored
    data = ordered.tobytes()
    if UID(store.syntax).is_encapsulated:
        typed = stored.view(f"<{'i' if store.signed else 'u'}{store.bits // 8}")
        unused = store.bits - store.stored_bits  # codecs take numbers: the sign goes all the way up
        typed = (typed << unused) >> unused if store.signed else typed
        data = encapsulate([compress(frame, store.syntax, store.stored_bits) for frame in typed])
    dataset.add_new(0x7FE00010, "OB" if store.bits == 8 or UID(store.syntax).is_encapsulated else "OW", data)


def save(path: Path, dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> None:
    """Write a DICOM file whose file header repeats what the data set says."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", make_uid(9, 9, 9))
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(f"{ROOT}.1")
    dataset.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    with config.disable_value_validation():
        dataset.save_as(path, enforce_file_format=True)


def make_uid(*numbers: int) -> UID:
    return UID(".".join([ROOT, *map(str, numbers)]))


def hash_text(number: int) -> str:
    """Return eight letters and digits that are in no order."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:8]


def texts(values: Sequence[float] | Array) -> list[str]:
    """Return decimal strings of at most 16 characters, as DICOM has them."""
    found = []
    for value in values:
        digits = 15
        while len(text := f"{float(value) + 0.0:.{digits}g}") > 16:
            digits -= 1
        found.append(text)
    return found
