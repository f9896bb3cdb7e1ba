"""What is odd about a volume but no reason to refuse it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.io.dicom.grid import axes_of
from medseg.io.dicom.scan import Scan
from medseg.io.dicom.volumes import PROTOCOL

MIDLINE_MM = 5.0  # a volume this far beyond the midline lies on one side
UPRIGHT = {"HFS": 1, "FFS": 1, "HFP": -1, "FFP": -1}
"""Sign of the row's and column's direction of an unturned axial CT slice: supine rows run to the patient's
left (+x) and columns to the back (+y), prone ones the other way (PS3.3 C.7.3.1.1.2)."""


def warn_of(scan: Scan) -> Iterator[tuple[str, str]]:
    """Yield (code, message) of everything odd; messages hold numbers and code strings only."""
    facts, pixels = scan.first.facts, scan.first.pixels
    if pixels is not None and pixels.photometric == "MONOCHROME1":
        yield (
            "DICOM_MONOCHROME1",
            "low values are bright (MONOCHROME1); values are kept as stored, not inverted",
        )
    if any(frame.instance.facts.get("lossy") == "01" for frame in scan.frames):
        yield "DICOM_LOSSY", "the pixels went through lossy compression"
    yield from _warn_of_protocol(scan)
    yield from _warn_of_count(
        scan, [facts.get(name, "") for name in ("images_in_acquisition", "number_of_slices")]
    )
    yield from _warn_of_side(scan)
    yield from _warn_of_position(scan)


def _warn_of_count(scan: Scan, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    announced = max(int(text) if text.isdecimal() and len(text) < 7 else 0 for text in texts)
    if len(scan.frames) < announced and not scan.volume:
        yield (
            "DICOM_FEWER_IMAGES",
            f"{len(scan.frames)} slices, but the header announces {announced} in the acquisition: "
            "slices may be missing at an end",
        )


def _warn_of_protocol(scan: Scan) -> Iterator[tuple[str, str]]:
    """One acquisition has one echo time; slices of two may be left of two volumes."""
    traits = [dict(frame.traits) for frame in scan.frames]
    mixed = [name for name in PROTOCOL if len({trait.get(name, "") for trait in traits}) > 1]
    if mixed:
        yield "DICOM_MIXED_PROTOCOL", f"slices of the volume differ in {', '.join(mixed)}"


def _warn_of_side(scan: Scan) -> Iterator[tuple[str, str]]:
    facts = scan.first.facts
    sides = {facts.get("image_laterality", ""), facts.get("laterality", "")} & {"L", "R"}
    if len(sides) > 1:
        yield "DICOM_LATERALITY", "the header names both sides: Laterality and ImageLaterality differ"
        return
    side = sides.pop() if sides else ""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in scan.geometry.shape])).reshape(3, -1).T
    right_mm = scan.geometry.to_world(corners)[:, 0]  # x of RAS+
    if (side == "L" and right_mm.min() > MIDLINE_MM) or (side == "R" and right_mm.max() < -MIDLINE_MM):
        where = f"{right_mm.min():.4g} to {right_mm.max():.4g} mm towards the right"
        yield "DICOM_LATERALITY", f"the header says side {side}, but every voxel lies {where}"


def _warn_of_position(scan: Scan) -> Iterator[tuple[str, str]]:
    positions = {frame.instance.facts.get("patient_position", "") for frame in scan.frames}
    if len(positions) > 1:
        yield "DICOM_PATIENT_POSITION", f"slices name {len(positions)} different patient positions"
        return
    position = positions.pop()
    rows, columns, normal = axes_of(scan.frames[0])
    is_axial = abs(normal[2]) > 0.9 and scan.modality == "CT" and "ORIGINAL" in scan.first.image_type
    if message := _contradict_letters(scan, rows, columns):
        yield "DICOM_PATIENT_POSITION", f"{message} contradicts the slices' orientation"
    sign = UPRIGHT.get(position)
    if is_axial and sign and (rows[0] * sign < -0.9 and columns[1] * sign < -0.9):
        yield (
            "DICOM_PATIENT_POSITION",
            f"patient position {position} contradicts the slices' orientation, which is that of a patient "
            "turned by 180 degrees",
        )


def _contradict_letters(scan: Scan, *axes: NDArray[np.float64]) -> str:
    """Say which letters of PatientOrientation oppose the direction cosines, or nothing."""
    letters = scan.first.facts.get("patient_orientation", "").upper().split("\\")
    ends = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "H": (2, 1), "F": (2, -1)}
    for letter, axis in zip(letters, axes):
        if letter[:1] in ends:
            world, sign = ends[letter[:1]]
            if axis[world] * sign < -0.5:
                return f"PatientOrientation {letter[:1]}"
    return ""
