"""DICOM segmentations (PS3.3 A.51, and label maps of Supplement 243), read as a label map.

A frame belongs to the slice at its position, whatever the order of frames; positions without a frame are
background. The pixels have to be those of the scan: flipped or turned within a slice, but never resampled.
A fractional segment takes what is at least half of its maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.core.errors import DataError, FormatError, GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels
from medseg.io.dicom.elements import quiet
from medseg.io.dicom.frames import read_frames
from medseg.io.dicom.grid import check_place
from medseg.io.dicom.labels.derived import (
    LABELMAP,
    MAX_SEGMENT,
    SEGMENTATION,
    Derived,
    list_segments,
    parsing,
    read_derived,
)
from medseg.io.dicom.labels.paint import Painter
from medseg.io.dicom.labels.seg_write import write_seg
from medseg.io.dicom.labels.slices import Planes, from_source, reorder
from medseg.io.dicom.labels.structures import check_reference, match_segments
from medseg.io.dicom.pixels.decode import decode_frames
from medseg.io.dicom.scan import Frame, Scan
from medseg.io.dicom.tags import integer, text

KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")
BACKGROUND = 0  # of a label map; no segment of the others has this number
ALL = 0  # stands for the segment of a frame that holds several, in a label map


@dataclass(frozen=True)
class _Placed:
    """A frame of the segmentation, the slice it lies on, and the segment it shows."""

    frame: Frame
    index: int
    segment: int


def read_seg(
    path: Path,
    scan: Scan,
    segments: Mapping[str, int],
    *,
    labels: Mapping[int, str] | None = None,
    overlap: Literal["refuse", "later"] = "refuse",
) -> Labels:
    """Return a segmentation as a label map on the grid of its scan.

    Args:
        path: The SEG file.
        scan: The image it was drawn on.
        segments: Segment name pattern or "#number" -> label value, see `structures`.
        labels: Label value -> name, where `segments` is empty: see `match_segments`.
        overlap: Whether voxels of two labels are refused, or take the label later in `segments`.

    Raises:
        FormatError: LABEL_KIND, DICOM_DAMAGED, DICOM_HEADER, DICOM_TRUNCATED or another fault of its pixels.
        GeometryError: GRID_MISMATCH.
        DataError: LABEL_ROI, LABEL_REFERENCE, DICOM_OVERLAP or DICOM_SEGMENTS_OVERLAP.
    """
    derived = read_derived(path, SEGMENTATION, LABELMAP)
    header = derived.header
    with parsing():
        listed = list_segments(header)
        chosen = match_segments(listed, segments, labels or {})
        check_reference(scan, {text(header, "FrameOfReferenceUID")}, _find_series(header))
        numbers = {number for number, _ in listed}
        frames = _list_frames(derived, numbers)
        threshold = _find_threshold(header)
    order = {number: rank for rank, number in enumerate(chosen)}
    wanted = [(frame, number) for frame, number in frames if number in chosen or number == ALL]
    placed = sorted(_place(wanted, scan), key=lambda one: (order.get(one.segment, 0), one.index))
    painter = Painter(scan, chosen.values(), overlap)
    _paint(painter, placed, chosen, numbers, threshold)
    return from_source(painter.finish(), scan)


def _paint(
    painter: Painter, placed: list[_Placed], chosen: Mapping[int, int], numbers: set[int], threshold: float
) -> None:
    """Give every frame's pixels their labels.

    Args:
        painter: Takes them.
        placed: In the order they are painted.
        chosen: Segment -> label value.
        numbers: Every segment that is described.
        threshold: What belongs to the segment of a frame, unless the frame holds several.
    """
    values = np.zeros(MAX_SEGMENT + 1, painter.array.dtype)
    values[list(chosen)] = list(chosen.values())
    is_known = np.zeros(MAX_SEGMENT + 1, dtype=bool)
    is_known[[BACKGROUND, *numbers]] = True
    with quiet():
        for one, stored in zip(placed, decode_frames([one.frame for one in placed]), strict=True):
            pixels = _fit(stored.T, one, painter.scan)
            if one.segment != ALL:
                if (mask := pixels >= threshold).any():
                    painter.paint(mask, one.index, chosen[one.segment])
            elif is_known[pixels].all():
                painter.array[..., one.index] = values[pixels]
            else:
                raise _refuse("pixels of the label map belong to segments that are not described")


def _find_series(header: Dataset) -> set[str]:
    return {text(item, "SeriesInstanceUID") for item in header.get("ReferencedSeriesSequence") or []}


def _find_threshold(header: Dataset) -> float:
    """Return the least value that belongs to a segment."""
    if text(header, "SegmentationType").upper() != "FRACTIONAL":
        return 1
    maximum = integer(header, "MaximumFractionalValue", -1)
    if not 1 <= maximum < 1 << integer(header, "BitsAllocated", 8):
        raise _refuse("the maximum of the fractions is missing, or no value that pixels can have")
    return maximum / 2


def _list_frames(derived: Derived, numbers: set[int]) -> list[tuple[Frame, int]]:
    """Return every frame and the number of its segment, which is one of `numbers`; ALL in a label map."""
    instance, header = derived.instance, derived.header
    kind = text(header, "SegmentationType").upper()
    if instance.error is not None:
        raise instance.error
    pixels = instance.pixels
    is_plain = pixels is not None and (pixels.samples, pixels.kind, pixels.is_signed) == (1, "integer", False)
    if kind not in KINDS or pixels is None or not is_plain or pixels.bits_allocated > 16:
        raise _refuse("the segmentation is of no known type, or its pixels are no numbers of 1 to 16 bits")
    pixels = replace(pixels, photometric="MONOCHROME2")  # a palette only colours the numbers of segments
    frames = read_frames(replace(instance, pixels=pixels), header)
    shared = next(iter(header.get("SharedFunctionalGroupsSequence") or []), Dataset())
    groups = header.PerFrameFunctionalGroupsSequence
    if kind == "LABELMAP":
        return [(frame, ALL) for frame in frames]
    shown = [(frame, _find_segment(own, shared)) for frame, own in zip(frames, groups, strict=True)]
    if unknown := sum(number not in numbers for _, number in shown):
        raise _refuse(f"{unknown} of {len(shown)} frames belong to segments that are not described")
    return shown


def _find_segment(own: Dataset, shared: Dataset) -> int:
    group = own if "SegmentIdentificationSequence" in own else shared
    return integer(group.SegmentIdentificationSequence[0], "ReferencedSegmentNumber", -1)


def _refuse(what: str) -> FormatError:
    return FormatError(what, hint="export it anew as BINARY, FRACTIONAL or LABELMAP", code="DICOM_HEADER")


def _place(frames: list[tuple[Frame, int]], scan: Scan) -> list[_Placed]:
    """Find the slice of every frame, and whether its pixels are those of the slice; nothing is read yet."""
    planes, placed = Planes(scan), []
    for frame, segment in frames:
        check_place(frame)
        one = _Placed(frame, planes.nearest(float(planes.measure(frame.plane[:3, 3]))), segment)
        pixels = frame.instance.pixels
        assert pixels is not None
        _fit(np.broadcast_to(np.uint8(0), (pixels.columns, pixels.rows)), one, scan)
        placed.append(one)
    if len({(one.index, one.segment) for one in placed}) < len(placed):
        raise DataError(
            "two frames of a segment lie at one position",
            hint="export one time point or stack on its own",
            code="DICOM_OVERLAP",
        )
    return placed


def _fit(pixels: NDArray[Any], one: _Placed, scan: Scan) -> NDArray[Any]:
    """Return a frame's (columns, rows) in the order of the slice it lies on.

    Raises:
        GeometryError: GRID_MISMATCH.
    """
    slice_pixels = scan.first.pixels
    assert slice_pixels is not None
    own = Geometry((*pixels.shape, 1), one.frame.plane)
    target = Geometry((slice_pixels.columns, slice_pixels.rows, 1), scan.frames[one.index].plane)
    try:
        return reorder(pixels[..., None], own, target)[..., 0]
    except GeometryError as error:
        raise GeometryError(
            f"frame {one.frame.index + 1} of the segmentation has not the pixels of the slice nearest to it",
            hint="export the segmentation on the grid of the series; it is not resampled",
            code="GRID_MISMATCH",
        ) from error


__all__ = ["read_seg", "write_seg"]
