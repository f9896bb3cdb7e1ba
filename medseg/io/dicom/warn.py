"""What is odd about a volume but no reason to refuse it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medseg.io.dicom.grid import axes_of
from medseg.io.dicom.scan import Scan

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
    yield from _warn_of_count(scan, facts.get("images_in_acquisition", ""))
    yield from _warn_of_side(scan)
    yield from _warn_of_position(scan)


def _warn_of_count(scan: Scan, text: str) -> Iterator[tuple[str, str]]:
    announced = int(text) if text.isdigit() else 0
    if len(scan.frames) < announced and not scan.volume:
        yield (
            "DICOM_FEWER_IMAGES",
            f"{len(scan.frames)} slices, but the header announces {announced} in the acquisition: "
            "slices may be missing at an end",
        )


def _warn_of_side(scan: Scan) -> Iterator[tuple[str, str]]:
    facts = scan.first.facts
    side = facts.get("image_laterality") or facts.get("laterality") or ""
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
    sign = UPRIGHT.get(position)
    if is_axial and sign and (rows[0] * sign < -0.9 and columns[1] * sign < -0.9):
        yield (
            "DICOM_PATIENT_POSITION",
            f"patient position {position} contradicts the slices' orientation, which is that of a patient "
            "turned by 180 degrees",
        )
