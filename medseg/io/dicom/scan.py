"""What DICOM files hold, as plain data: decided from headers alone, printed, chosen from, then applied.

Positions and orientations of `Instance` and `Frame` are the file's own (LPS+ millimetres); a `Geometry` is
RAS+ as everywhere in medseg. A pixel at (row r, column c) of slice k is the voxel (i, j, k) = (c, r, k);
slices ascend along the normal, the cross product of the row's and the column's direction. Nothing in here is
ever printed or stored but by the functions that know what identifies a patient: UIDs and patient ids do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from medseg.core.errors import DataError
from medseg.core.geometry import Affine, Geometry
from medseg.io.grids import LPS_TO_RAS

Warnings = tuple[tuple[str, str], ...]
Verdict = Literal["accept", "warn", "repair", "choose", "reject"]


@dataclass(frozen=True)
class Pixels:
    """How one file stores its pixels.

    Args:
        syntax: Transfer syntax UID.
        offset: First byte of the values in the file; -1 where they are compressed or the file is deflated.
        length: Bytes that the element announces; -1 where they are encapsulated.
        kind: What the element holds: "integer" (7FE0,0010), "float" (0008) or "double" (0009).
    """

    syntax: str
    offset: int
    length: int
    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    photometric: str
    kind: Literal["integer", "float", "double"] = "integer"


@dataclass(frozen=True)
class Instance:
    """One DICOM file, as far as headers tell; UIDs and ids are "" where the file has none.

    Args:
        pixels: None for objects without pixel data.
        facts: What only some readers ask for, by keyword: units, laterality, dose, ... as text.
        error: Why this file cannot be used, though it could be read as DICOM.
    """

    path: Path
    patient: str
    study: str
    series: str
    sop_class: str
    sop_instance: str
    modality: str
    image_type: tuple[str, ...]
    pixels: Pixels | None
    facts: Mapping[str, str] = field(default_factory=dict)
    error: DataError | None = None


@dataclass(frozen=True)
class Frame:
    """One slice: where its pixels are and where they lie in the patient.

    Args:
        index: Number of the frame in its file, from 0.
        position_mm: (3,) LPS centre of the first pixel.
        orientation: (6,) LPS direction along a row, then along a column.
        spacing_mm: Distance of rows, then of columns (DICOM's PixelSpacing order).
        slope, intercept: Value = stored * slope + intercept.
        traits: Header values that tell the volumes of one series apart (echo time, time point, ...).
    """

    instance: Instance
    index: int
    position_mm: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    slope: float
    intercept: float
    frame_of_reference: str
    number: int | None
    traits: tuple[tuple[str, str], ...] = ()
    is_rescaled: bool = True  # whether the header holds slope and intercept

    @property
    def plane(self) -> Affine:
        """(4, 4) RAS+ affine of (column, row, 0) on this slice; only for frames of a `Scan`."""
        assert self.orientation is not None and self.spacing_mm is not None and self.position_mm is not None
        affine = np.eye(4)
        along_row, along_column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        affine[:3, 0] = along_row * self.spacing_mm[1]
        affine[:3, 1] = along_column * self.spacing_mm[0]
        affine[:3, 2] = np.cross(along_row, along_column)
        affine[:3, 3] = self.position_mm
        return np.asarray(LPS_TO_RAS @ affine)


@dataclass(frozen=True)
class Scan:
    """One volume that can be read, or was found to be none.

    Args:
        frames: The source's slices in ascending order; exact duplicates are left out.
        geometry: The grid that reading gives: (columns, rows, slices), resampled where `repair` says so.
        repair: "" for a volume read as it is, "tilt" or "resample_z".
        suv_factor: Every value is multiplied by it; 1 where no SUV was asked for.
        label: What tells this volume apart in its series, without free text ("echo 2", "b 1000").
    """

    frames: tuple[Frame, ...]
    geometry: Geometry
    repair: Literal["", "tilt", "resample_z", "tilt+resample_z"] = ""
    suv_factor: float = 1.0
    warnings: Warnings = ()
    label: str = ""
    volume: int = 0  # number in its series from 1; 0 where the series holds one volume

    @property
    def first(self) -> Instance:
        """The file of the first slice: what holds for the whole series is read from it."""
        return self.frames[0].instance

    @property
    def modality(self) -> str:
        """CT, MR, PT, ..."""
        return self.first.modality

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file the volume is stored in, once, in order of slices."""
        return tuple(dict.fromkeys(frame.instance.path for frame in self.frames))


@dataclass(frozen=True)
class Candidate:
    """A volume of a series, or why there is none."""

    scan: Scan | None
    error: DataError | None
    frames: tuple[Frame, ...]

    @property
    def verdict(self) -> Verdict:
        """What `inspect` says of it."""
        if self.error is not None or self.scan is None:
            return "repair" if self.error and self.error.code in REPAIRABLE else "reject"
        return "warn" if self.scan.warnings else "accept"


REPAIRABLE = {"DICOM_TILT", "DICOM_SPACING", "DICOM_THICKNESS"}


@dataclass(frozen=True)
class Series:
    """All files of one series of one study.

    Args:
        number: From 1, in the order that `inspect` lists; what `--series` takes.
        candidates: Its volumes; one without a single usable volume has one candidate with the error.
        is_image: Whether it claims to hold images; segmentations, structures and reports do not.
        is_localizer: Never chosen unless asked for by number or UID.
    """

    number: int
    instances: tuple[Instance, ...]
    candidates: tuple[Candidate, ...]
    is_image: bool = True
    is_localizer: bool = False

    @property
    def first(self) -> Instance:
        """Study, series, patient and modality are those of any file."""
        return self.instances[0]


@dataclass(frozen=True)
class Index:
    """Everything below a folder.

    Args:
        others: Files that are not DICOM.
        damaged: Files that claim to be DICOM and cannot be read, with the reason.
    """

    series: tuple[Series, ...]
    others: tuple[Path, ...] = ()
    damaged: tuple[tuple[Path, DataError], ...] = ()


@dataclass(frozen=True)
class Options:
    """What the user allows or knows; see `medseg convert --help`."""

    allow_tilt: bool = False
    allow_resample_z: bool = False
    slice_thickness_mm: float | None = None
    suv: bool = False
