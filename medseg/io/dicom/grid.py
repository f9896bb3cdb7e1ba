"""From slices to a grid: accepted, or refused with the numbers that decided.

Limits: the facts of real series decide. Steps of a good series scatter by 0.001 mm and, where positions
were rounded to two digits, by 0.01 mm; direction cosines are rounded to four digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.io.dicom.scan import Frame, Options, Warnings
from medseg.io.grids import LPS_TO_RAS, MAX_SHEAR

MAX_COSINE_ERROR = 1e-3  # of a direction's length, and of the right angle between two
MAX_ORIENTATION_SPREAD = 2e-4  # between slices: cosines rounded to four digits, twice
ROUNDING_MM = 0.02  # twice what positions rounded to two digits can be off
MAX_TILT = 1.0  # 45 degrees; gantries tilt by up to 30
GAP_STEPS = 1.8  # a step of so many usual ones means that slices are missing

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stack:
    """Parallel slices in ascending order, measured.

    Args:
        frames: Ascending along the normal.
        distances_mm: (K,) along the normal; the first is 0.
        shifts_mm: (K, 2) displacement along the row's and the column's direction; the first is 0.
    """

    frames: tuple[Frame, ...]
    distances_mm: Floats
    shifts_mm: Floats


def measure(frames: Sequence[Frame]) -> Stack:
    """Sort slices by position and measure where they lie; every frame's place has been checked."""
    rows, columns, normal = axes_of(frames[0])
    positions = np.array([frame.position_mm for frame in frames])
    order = np.argsort(positions @ normal, kind="stable")
    offsets = positions[order] - positions[order[0]]
    shifts = np.stack([offsets @ rows, offsets @ columns], axis=1)
    return Stack(tuple(frames[index] for index in order), offsets @ normal, shifts)


def axes_of(frame: Frame) -> tuple[Floats, Floats, Floats]:
    """Return the LPS unit vectors along a row, along a column, and of the normal."""
    assert frame.orientation is not None
    rows, columns = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    rows = rows / np.linalg.norm(rows)
    columns = columns - rows * (rows @ columns)  # rounded cosines leave up to 1e-3; the row wins
    columns = columns / np.linalg.norm(columns)
    return rows, columns, np.cross(rows, columns)


def check_place(frame: Frame) -> None:
    """Refuse a frame whose place is missing or impossible.

    Raises:
        GeometryError: DICOM_POSITION, DICOM_ORIENTATION or DICOM_PIXEL_SPACING.
    """
    if frame.position_mm is None or not all(map(math.isfinite, frame.position_mm)):
        raise _refuse("ImagePositionPatient", frame.position_mm, "DICOM_POSITION")
    cosines = frame.orientation
    if cosines is None or not all(map(math.isfinite, cosines)):
        raise _refuse("ImageOrientationPatient", cosines, "DICOM_ORIENTATION")
    along_row, along_column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    product = float(along_row @ along_column)
    if max(abs(length - 1) for length in lengths) > MAX_COSINE_ERROR or abs(product) > MAX_COSINE_ERROR:
        raise GeometryError(
            f"ImageOrientationPatient is no pair of orthogonal unit vectors: lengths {lengths[0]:.4g} and "
            f"{lengths[1]:.4g}, product {product:.4g}",
            hint="export the series again; its directions cannot be recovered",
            code="DICOM_ORIENTATION",
        )
    spacing = frame.spacing_mm
    if spacing is None or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise _refuse("PixelSpacing", spacing, "DICOM_PIXEL_SPACING")


def _refuse(what: str, value: Sequence[float] | None, code: str) -> GeometryError:
    state = "is missing" if value is None else f"is {' '.join(f'{part:g}' for part in value)}"
    return GeometryError(
        f"{what} of a slice {state}",
        hint="export the series again; medseg does not guess where its voxels lie",
        code=code,
    )


def make_geometry(
    stack: Stack, options: Options
) -> tuple[Geometry, Literal["", "tilt", "resample_z", "tilt+resample_z"], Warnings]:
    """Return the grid of a stack, the repair it needs, and what to tell.

    Raises:
        GeometryError: DICOM_THICKNESS, DICOM_GAP, DICOM_SPACING, DICOM_SHIFTED or DICOM_TILT.
    """
    if len(stack.frames) == 1:
        return _single(stack.frames[0], options), "", ()
    is_uneven = _check_steps(stack, options)
    slope = _check_shifts(stack, options)
    count, step = _choose_steps(stack) if is_uneven else (len(stack.frames), _mean_step(stack))
    rows, columns, normal = axes_of(stack.frames[0])
    is_tilted = slope is None
    along = normal if slope is None else normal + slope[0] * rows + slope[1] * columns
    low, high = (stack.shifts_mm.min(axis=0), stack.shifts_mm.max(axis=0)) if is_tilted else (0, 0)
    geometry = _grid(stack.frames[0], along * step, count, np.zeros(2) + low, np.zeros(2) + high)
    warnings: list[tuple[str, str]] = []
    if is_tilted:
        degrees = math.degrees(math.atan2(np.linalg.norm(stack.shifts_mm[-1]), stack.distances_mm[-1]))
        warnings.append(("DICOM_TILT_REPAIRED", f"a tilt of {degrees:.2f} degrees was resampled away"))
    if is_uneven:
        warnings.append(("DICOM_Z_RESAMPLED", f"uneven slices were resampled to steps of {step:.4g} mm"))
    repairs = "+".join(name for name, on in (("tilt", is_tilted), ("resample_z", is_uneven)) if on)
    return geometry, repairs, tuple(warnings)  # type: ignore[return-value]


def _mean_step(stack: Stack) -> float:
    return float(stack.distances_mm[-1]) / (len(stack.frames) - 1)


def _choose_steps(stack: Stack) -> tuple[int, float]:
    """Return how many even steps replace uneven ones: the median, stretched to meet both ends."""
    extent = float(stack.distances_mm[-1])
    count = max(round(extent / float(np.median(np.diff(stack.distances_mm)))), 1)
    return count + 1, extent / count


def _grid(frame: Frame, step: Floats, count: int, low: Floats, high: Floats) -> Geometry:
    """Return the grid of `count` slices from `frame` on, widened in its plane from `low` to `high` mm."""
    assert (
        frame.spacing_mm is not None and frame.position_mm is not None and frame.instance.pixels is not None
    )
    rows, columns, _ = axes_of(frame)
    row_step, column_step = frame.spacing_mm  # distance of rows lies along a column
    pixels = np.array([frame.instance.pixels.columns, frame.instance.pixels.rows])
    spacing = np.array([column_step, row_step])
    before, after = np.ceil(-low / spacing - 1e-6), np.ceil(high / spacing - 1e-6)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = rows * column_step, columns * row_step, step
    affine[:3, 3] = frame.position_mm
    affine[:3, 3] -= affine[:3, 0] * before[0] + affine[:3, 1] * before[1]
    i, j = (pixels + before + after).astype(int)
    return Geometry((int(i), int(j), count), LPS_TO_RAS @ affine)


def _single(frame: Frame, options: Options) -> Geometry:
    thickness = options.slice_thickness_mm or frame.thickness_mm
    if thickness is None or not (math.isfinite(thickness) and thickness > 0):
        raise GeometryError(
            "a single slice whose thickness is unknown: SliceThickness is "
            + ("missing" if thickness is None else f"{thickness:g}"),
            hint="give it with --slice-thickness MM",
            code="DICOM_THICKNESS",
        )
    return _grid(frame, axes_of(frame)[2] * thickness, 1, np.zeros(2), np.zeros(2))


def _check_steps(stack: Stack, options: Options) -> bool:
    """Return whether the steps are uneven and may be resampled."""
    steps = np.diff(stack.distances_mm)
    usual = _usual_step(steps)
    if gaps := [index for index, step in enumerate(steps) if step > GAP_STEPS * usual]:
        raise GeometryError(
            f"slices are missing: {_list_gaps(stack, gaps)}; the usual step is {usual:.4g} mm",
            hint="export the whole series again; medseg does not invent slices",
            code="DICOM_GAP",
        )
    step = _mean_step(stack)
    tolerance = max(min(0.01 * step, 0.1), min(ROUNDING_MM, 0.05 * step))
    regular = step * np.arange(len(stack.frames))
    drift = float(np.abs(stack.distances_mm - regular).max())
    if np.abs(steps - step).max() <= tolerance and drift <= max(tolerance, min(0.1, 0.1 * step)):
        return False
    if not options.allow_resample_z:
        raise GeometryError(
            f"the distance between slices is not uniform: {steps.min():.4g} to {steps.max():.4g} mm "
            f"(mean {step:.4g}, tolerance {tolerance:.2g})",
            hint="--allow-resample-z interpolates to even steps",
            code="DICOM_SPACING",
        )
    return True


def _usual_step(steps: Floats) -> float:
    """Return the step without gaps: the smallest if all others are multiples of it, else the median."""
    smallest = float(np.median(steps[steps < 1.5 * steps.min()]))
    multiples = steps / smallest
    is_common = bool((np.abs(multiples - np.rint(multiples)) < 0.1).all())
    return smallest if is_common else float(np.median(steps))


def _list_gaps(stack: Stack, gaps: Sequence[int]) -> str:
    normal = axes_of(stack.frames[0])[2]
    origin = float(np.array(stack.frames[0].position_mm) @ normal)
    parts = [
        f"a gap of {stack.distances_mm[k + 1] - stack.distances_mm[k]:.4g} mm between "
        f"{origin + stack.distances_mm[k]:.4g} and {origin + stack.distances_mm[k + 1]:.4g} mm"
        for k in gaps[:3]
    ]
    more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    return f"{', '.join(parts)} along the normal{more}"


def _check_shifts(stack: Stack, options: Options) -> Floats | None:
    """Return the in-plane displacement per mm along the normal, or None for a tilt that is allowed."""
    d = stack.distances_mm
    slope = (d @ stack.shifts_mm) / (d @ d)
    assert stack.frames[0].spacing_mm is not None
    limit = min(0.1, 0.5 * min(stack.frames[0].spacing_mm))
    wobble = float(np.abs(stack.shifts_mm - np.outer(d, slope)).max())
    if wobble > limit:
        raise GeometryError(
            f"slices are displaced in their plane by up to {wobble:.4g} mm, and not along a line",
            hint="export the series again; slices of different positions were mixed",
            code="DICOM_SHIFTED",
        )
    tilt = float(np.linalg.norm(slope))
    if tilt <= MAX_SHEAR:
        return np.asarray(slope)
    if tilt * d[-1] <= 0.05:  # rounded positions of a few thin slices
        return np.zeros(2)
    if tilt > MAX_TILT:
        raise GeometryError(
            f"slices are displaced by {math.degrees(math.atan(tilt)):.3g} degrees: no gantry tilts so far",
            hint="export the series again; slices of different positions were mixed",
            code="DICOM_SHIFTED",
        )
    if not options.allow_tilt:
        raise GeometryError(
            f"gantry tilt: slices are sheared by {math.degrees(math.atan(tilt)):.2f} degrees, "
            f"{tilt * d[-1]:.4g} mm over the stack",
            hint="--allow-tilt resamples to an orthogonal grid",
            code="DICOM_TILT",
        )
    return None
