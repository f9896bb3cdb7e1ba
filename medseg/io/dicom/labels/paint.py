"""Painting structures over each other, slice by slice, without hiding that they overlap."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import DataError
from medseg.io.dicom.labels.contours import Box
from medseg.io.dicom.scan import Scan

WHOLE: Box = (slice(None), slice(None))


class Painter:
    """A label map on the slices of a scan.

    Args:
        scan: Its slices.
        values: Every label that will be painted.
        overlap: "later" lets a label replace an earlier one, "refuse" counts such voxels.
    """

    def __init__(self, scan: Scan, values: Collection[int], overlap: Literal["refuse", "later"]) -> None:
        self.scan, pixels = scan, scan.first.pixels
        assert pixels is not None
        dtype = np.min_scalar_type(max(values, default=0))
        # Slices one after the other, rows within them: as they are painted, and as NIfTI is written.
        planes: NDArray[Any] = np.zeros((len(scan.frames), pixels.rows, pixels.columns), dtype)
        self.array = planes.transpose(2, 1, 0)
        self.overlap = overlap
        self.overlapping = 0

    def paint(self, mask: NDArray[np.bool_], index: int, value: int, box: Box = WHOLE) -> None:
        """Give a label to the pixels of a part (columns, rows) of one slice."""
        plane = self.array[..., index][box]
        if self.overlap == "refuse":
            self.overlapping += int(np.count_nonzero(mask & (plane != 0) & (plane != value)))
        plane[mask] = value

    def finish(self) -> NDArray[Any]:
        """Return (columns, rows, slices).

        Raises:
            DataError: DICOM_SEGMENTS_OVERLAP.
        """
        if self.overlapping:
            raise DataError(
                f"{self.overlapping} voxels belong to two structures that are different labels",
                hint="map one of them, or correct the structures: a voxel has one label",
                code="DICOM_SEGMENTS_OVERLAP",
            )
        return self.array
