"""Read the voxels of a scan that was decided on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.volume import Volume
from medseg.io.dicom.elements import quiet
from medseg.io.dicom.pixels.decode import decode_frames
from medseg.io.dicom.repair import resample
from medseg.io.dicom.scan import Scan
from medseg.io.voxels import check_finite


def read_scan(scan: Scan, notes: set[str] | None = None) -> Volume:
    """Read a volume: stored values times slope plus intercept, on `scan.geometry`.

    Whole numbers stay integers where every slope is 1 and every intercept whole; else float32, computed in
    float64. No copy is made on the way to a NIfTI, whose first axis runs fastest as a DICOM row does.

    Args:
        scan: What to read.
        notes: Gets codes of warnings that only the pixels tell (DICOM_HIGH_BITS).

    Returns:
        (1, I, J, K).

    Raises:
        DataError: DICOM_TRUNCATED, DICOM_DECODE, DICOM_DECODER or VOXELS_NOT_FINITE.
    """
    with quiet():
        planes = _read_planes(scan, notes)
    if scan.repair:
        planes = resample(planes, scan.frames, scan.geometry)
    array = planes.transpose(2, 1, 0)[None]
    check_finite(array)
    return Volume(array, scan.geometry)


def _read_planes(scan: Scan, notes: set[str] | None) -> NDArray[Any]:
    """Return (slices, rows, columns) of real values."""
    frames = scan.frames
    pixels = scan.first.pixels
    assert pixels is not None
    is_whole = scan.suv_factor == 1 and all(
        frame.slope == 1 and float(frame.intercept).is_integer() for frame in frames
    )
    offset = int(min(frame.intercept for frame in frames)) if is_whole else 0
    shape = (len(frames), pixels.rows, pixels.columns)
    planes: NDArray[Any] | None = None
    for index, (frame, stored) in enumerate(zip(frames, decode_frames(frames, notes), strict=True)):
        if is_whole and stored.dtype.kind in "ui":
            values = _add(stored, int(frame.intercept) - offset, may_overwrite=False)
        else:
            exact = stored.astype(np.float64) * frame.slope + frame.intercept - offset
            values = (exact * scan.suv_factor).astype(np.float32)
        if planes is None:
            planes = np.empty(shape, values.dtype)
        elif values.dtype != planes.dtype:
            planes = planes.astype(np.promote_types(planes.dtype, values.dtype))
        planes[index] = values
    assert planes is not None
    return _add(planes, offset)


def _add(values: NDArray[Any], offset: int, *, may_overwrite: bool = True) -> NDArray[Any]:
    """Add a whole number, in the smallest of the usual types that holds the result."""
    if not offset:
        return values
    if values.dtype.kind == "f":
        return values + np.float32(offset)
    low, high = int(values.min()) + offset, int(values.max()) + offset
    for dtype in (values.dtype, np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)):
        info = np.iinfo(dtype)
        if info.min <= low and high <= info.max:
            if may_overwrite and dtype.itemsize == values.dtype.itemsize:  # wraps around to the right value
                values = values.view(dtype)
                values += np.array(offset).astype(dtype)
                return values
            return (values.astype(np.int64) + offset).astype(dtype)
    return values.astype(np.float64) + offset
