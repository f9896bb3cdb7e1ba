"""Write a label map as an RT structure set (PS3.3 A.19, C.8.8.5, C.8.8.6, C.8.8.8).

Contours run along the edges of pixels, one per 4-connected part of a label on a slice, holes joined to the
outline: reading them back gives every voxel again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, ImplicitVRLittleEndian
from scipy.ndimage import find_objects

from medseg import __version__
from medseg.core.files import atomic_path
from medseg.core.volume import Labels
from medseg.io.dicom.elements import quiet
from medseg.io.dicom.labels.contours import Points, trace
from medseg.io.dicom.labels.derived import RTSTRUCT
from medseg.io.dicom.labels.source import (
    MANUFACTURER,
    UNKNOWN,
    Source,
    check_names,
    clean,
    derive_uid,
    describe_maker,
    fingerprint,
    read_source,
    refer_to,
    refer_to_files,
)
from medseg.io.dicom.scan import Frame, Scan

STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: retired, and still asked for
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
MM_DECIMALS = 4
CONTOUR_DATA = 0x30060050
COLOURS = ((230, 60, 60), (60, 180, 75), (70, 110, 240), (240, 190, 40), (160, 70, 200), (60, 200, 210))


def write_rtstruct(
    path: Path,
    labels: Labels,
    scan: Scan,
    names: Mapping[int, str],
    *,
    algorithm: tuple[str, str] = (MANUFACTURER, __version__),
) -> bool:
    """Write one structure for each label; one without voxels has no contours.

    Args:
        path: Written atomically.
        labels: On the grid of the scan; for a repaired scan it is brought back to the source's slices.
        scan: The source: its patient, study and slices are referred to.
        names: Label value -> name; becomes ROI number and name.
        algorithm: Name and version of what made the labels; UNKNOWN is a name, too.

    Returns:
        Whether there is a contour at all.

    Raises:
        GeometryError: GRID_MISMATCH.
        DataError: LABEL_VALUE or LABEL_REFERENCE.
    """
    source = read_source(scan, labels)
    check_names(source.array, names)
    with quiet():
        dataset = _describe(source, names, algorithm)
        _add_structures(dataset, source, names, algorithm)
        with atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    return bool(source.array.any())


def _describe(source: Source, names: Mapping[int, str], algorithm: tuple[str, str]) -> Dataset:
    """Return the object without its structures."""
    key = fingerprint(source, "rtstruct", sorted(names.items()), algorithm)
    dataset = Dataset()
    dataset.update(source.header)
    dataset.SOPClassUID = RTSTRUCT
    dataset.SOPInstanceUID = derive_uid(key, "instance")
    dataset.SeriesInstanceUID = derive_uid(key, "series")
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesNumber, dataset.InstanceNumber = 991, 1
    dataset.SeriesDescription = clean(describe_maker(algorithm, "structures"), "LO")
    dataset.OperatorsName = ""
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = clean(algorithm[0], "LO")
    dataset.SoftwareVersions = clean(algorithm[1], "LO")
    dataset.StructureSetLabel = clean(algorithm[0], "SH") or MANUFACTURER
    dataset.StructureSetDate, dataset.StructureSetTime = source.date, source.time
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_refer_to_source(source)]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(RTSTRUCT), dataset.SOPInstanceUID
    # Explicit VR cannot hold the 64 kB and more that the points of a long contour take.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.ImplementationClassUID = UID(PYDICOM_IMPLEMENTATION_UID)
    dataset.file_meta = meta
    return dataset


def _refer_to_source(source: Source) -> Dataset:
    series, study, space = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = source.scan.first.series
    series.ContourImageSequence = refer_to_files(source.scan)
    study.ReferencedSOPClassUID = STUDY_CLASS
    study.ReferencedSOPInstanceUID = source.header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    space.FrameOfReferenceUID = source.frame_of_reference
    space.RTReferencedStudySequence = [study]
    return space


def _add_structures(
    dataset: Dataset, source: Source, names: Mapping[int, str], algorithm: tuple[str, str]
) -> None:
    structures, contours, observations = [], [], []
    drawn_contours = _draw(source)
    for value in sorted(names):
        structure, drawn, observation = Dataset(), Dataset(), Dataset()
        structure.ROINumber = value
        structure.ReferencedFrameOfReferenceUID = source.frame_of_reference
        structure.ROIName = clean(names[value], "LO")
        if algorithm[0] == UNKNOWN:
            structure.ROIGenerationAlgorithm = ""
        else:
            structure.ROIGenerationAlgorithm = "AUTOMATIC"
            structure.ROIGenerationDescription = clean(" ".join(algorithm), "LO")
        drawn.ROIDisplayColor = list(COLOURS[(value - 1) % len(COLOURS)])
        drawn.ReferencedROINumber = value
        if value in drawn_contours:
            drawn.ContourSequence = drawn_contours[value]
        observation.ObservationNumber = observation.ReferencedROINumber = value
        observation.RTROIInterpretedType, observation.ROIInterpreter = "", ""
        structures.append(structure)
        contours.append(drawn)
        observations.append(observation)
    dataset.StructureSetROISequence = structures
    dataset.ROIContourSequence = contours
    dataset.RTROIObservationsSequence = observations


def _draw(source: Source) -> dict[int, list[Dataset]]:
    """Return the contours of every label that has any, slice by slice."""
    contours: dict[int, list[Dataset]] = {}
    for index, frame in enumerate(source.scan.frames):
        labels, plane = source.array[..., index].astype(np.int32), frame.plane
        for value, box in enumerate(find_objects(labels), start=1):
            if box is None:
                continue
            first = np.array([part.start for part in box])
            for polygon in trace(labels[box] == value):
                points = (polygon + first) @ plane[:3, :2].T + plane[:3, 3]
                drawn = contours.setdefault(value, [])
                drawn.append(_write_contour(points * RAS_TO_LPS, frame, len(drawn) + 1))
    return contours


def _write_contour(points: Points, frame: Frame, number: int) -> Dataset:
    """Return a contour through (N, 3) LPS points."""
    contour = Dataset()
    contour.ContourImageSequence = [refer_to(frame)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourNumber = number
    value = _write_points(points, frame)
    # As it is in the file: one object per number would take a gigabyte for a scan with 24 labels.
    contour[CONTOUR_DATA] = RawDataElement(Tag(CONTOUR_DATA), "DS", len(value), value, 0, True, True)
    contour.set_original_encoding(True, True, "iso8859")  # else pydicom reads the numbers to write them anew
    return contour


def _write_points(points: Points, frame: Frame) -> bytes:
    """Return decimal strings, rounded to 1e-4 mm, finer where pixels are smaller than 0.1 mm."""
    assert frame.spacing_mm is not None
    digits = max(MM_DECIMALS, 3 - math.floor(math.log10(min(frame.spacing_mm))))
    numbers = [f"{value + 0.0:.{digits}f}".rstrip("0").rstrip(".") for value in points.ravel().tolist()]
    value = "\\".join(numbers).encode()
    return value + b" " * (len(value) % 2)
