"""RT structure sets (PS3.3 A.19): contours on the slices of a scan, read as a label map.

A contour belongs to the slice in whose plane it lies. What lies between slices, is not parallel to them or is
not closed is refused: contours are neither moved nor interpolated, and slices without any stay empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.core.errors import DataError, FormatError
from medseg.core.volume import Labels
from medseg.io.dicom.labels.contours import Points, fill
from medseg.io.dicom.labels.derived import RTSTRUCT, list_rois, parsing, read_derived
from medseg.io.dicom.labels.paint import Painter
from medseg.io.dicom.labels.rtstruct_write import write_rtstruct
from medseg.io.dicom.labels.slices import Planes, from_source
from medseg.io.dicom.labels.structures import check_reference, match
from medseg.io.dicom.scan import Scan
from medseg.io.dicom.tags import integer, text

CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def read_rtstruct(
    path: Path,
    scan: Scan,
    rois: Mapping[str, int],
    *,
    labels: Mapping[int, str] | None = None,
    overlap: Literal["refuse", "later"] = "refuse",
) -> Labels:
    """Return the contours of a structure set as a label map on the grid of its scan.

    A pixel belongs to a structure if its centre is enclosed by an odd number of the structure's contours on
    its slice (even-odd rule), so an inner contour is a hole. A structure without contours is empty.

    Args:
        path: The RTSTRUCT file.
        scan: The image it was drawn on.
        rois: ROI name pattern or "#number" -> label value, see `structures`.
        labels: Label value -> name: what ROIs are called where `rois` is empty.
        overlap: Whether voxels of two labels are refused, or take the label later in `rois`.

    Raises:
        FormatError: LABEL_KIND, DICOM_DAMAGED or DICOM_HEADER.
        DataError: LABEL_ROI, LABEL_REFERENCE, DICOM_CONTOUR or DICOM_SEGMENTS_OVERLAP.
    """
    header = read_derived(path, RTSTRUCT).header
    with parsing():
        chosen = match(list_rois(header), rois, labels or {})
        check_reference(scan, _find_spaces(header, chosen), _find_series(header))
        items = _read_items(header, chosen)
    painter, planes = Painter(scan, chosen.values(), overlap), Planes(scan)
    for number, value in chosen.items():
        for index, polygons in _sort(items[number], planes, number).items():
            box, mask = fill(polygons, painter.array.shape[:2])
            painter.paint(mask, index, value, box)
    return from_source(painter.finish(), scan)


def _find_spaces(header: Dataset, chosen: Mapping[int, int]) -> set[str]:
    """Return the frames of reference of the chosen ROIs."""
    return {
        text(item, "ReferencedFrameOfReferenceUID")
        for item in header.StructureSetROISequence
        if integer(item, "ROINumber", -1) in chosen
    } - {""} or {text(header, "FrameOfReferenceUID")}


def _find_series(header: Dataset) -> set[str]:
    return {
        text(series, "SeriesInstanceUID")
        for space in header.get("ReferencedFrameOfReferenceSequence") or []
        for study in space.get("RTReferencedStudySequence") or []
        for series in study.get("RTReferencedSeriesSequence") or []
    }


def _read_items(header: Dataset, chosen: Mapping[int, int]) -> dict[int, list[list[Points]]]:
    """Return the contours of every chosen ROI; usually one item holds them all.

    Raises:
        FormatError: DICOM_HEADER: a ROI has no contours, and there are some of which nobody knows whose.
    """
    items: dict[int, list[Dataset]] = {}
    for item in header.ROIContourSequence:
        items.setdefault(integer(item, "ReferencedROINumber", -1), []).append(item)
    drawn = {number for number, own in items.items() if any(item.get("ContourSequence") for item in own)}
    if drawn - {number for number, _ in list_rois(header)} and chosen.keys() - items.keys():
        raise FormatError(
            "contours belong to a structure that the object does not list",
            hint="export the structures again",
            code="DICOM_HEADER",
        )
    return {number: [_list_contours(item, number) for item in items.get(number, [])] for number in chosen}


def _list_contours(item: Dataset, number: int) -> list[Points]:
    """Return the (N, 3) LPS points of every contour of an item of one ROI."""
    found = []
    for contour in item.get("ContourSequence") or []:
        kind = text(contour, "ContourGeometricType").upper()
        if kind not in CLOSED:
            raise _refuse(number, "is a point or an open line" if kind else "is of no known kind")
        points = _parse(contour.get_item("ContourData"))
        announced = integer(contour, "NumberOfContourPoints", len(points) // 3)
        if len(points) % 3 or len(points) // 3 != announced or not np.isfinite(points).all():
            raise _refuse(number, f"announces {announced} points and holds {len(points)} usable coordinates")
        found.append(points.reshape(-1, 3))
    return found


def _parse(element: Any) -> Points:
    """Return the numbers of a decimal string; 20 times faster than pydicom, which checks each."""
    value = None if element is None else element.value
    if isinstance(value, bytes):
        text_of = value.rstrip(b"\0 ")
        return np.array(text_of.split(b"\\")).astype(np.float64) if text_of else np.empty(0)
    return np.array([float(part) for part in value or ()])


def _refuse(number: int, what: str) -> DataError:
    return DataError(
        f"a contour of structure #{number} {what}",
        hint="export closed contours drawn on the slices of this series",
        code="DICOM_CONTOUR",
    )


def _sort(items: list[list[Points]], planes: Planes, number: int) -> dict[int, list[Points]]:
    """Return the polygons of one ROI by slice.

    Raises:
        DataError: DICOM_CONTOUR: also where two items of the ROI meet on a slice: one could be a part of
            the structure, a hole in the other, or a copy of it.
    """
    by_slice: dict[int, list[Points]] = {}
    for contours in items:
        own: dict[int, list[Points]] = {}
        for points in contours:
            if len(points):
                index, polygon = _place(points, planes, number)
                own.setdefault(index, []).append(polygon)
        if own.keys() & by_slice.keys():
            raise _refuse(number, "lies on a slice where another item of the structure has one")
        by_slice |= own
    return by_slice


def _place(points_lps: Points, planes: Planes, number: int) -> tuple[int, Points]:
    """Return the slice of a contour, and its (N, 2) vertices in pixels of that slice.

    Raises:
        DataError: DICOM_CONTOUR: it lies in the plane of no slice.
    """
    points: NDArray[np.float64] = points_lps * LPS_TO_RAS
    heights = planes.measure(points)
    if np.ptp(heights) > 2 * planes.tolerance_mm:
        raise _refuse(number, f"is not parallel to the slices: {np.ptp(heights):.3g} mm along their normal")
    index = planes.nearest(float(np.median(heights)))
    apart = float(np.abs(heights - planes.distances_mm[index]).max())
    if apart > planes.tolerance_mm:
        raise _refuse(
            number, f"lies {apart:.3g} mm off the nearest slice (at most {planes.tolerance_mm:.2g} mm)"
        )
    to_pixels = planes.to_pixels[index]
    return index, points @ to_pixels[:2, :3].T + to_pixels[:2, 3]


__all__ = ["read_rtstruct", "write_rtstruct"]
