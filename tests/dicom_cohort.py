"""Writes studies to learn from: a scan of `tests.tiny` as a DICOM series, its labels as an RTSTRUCT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from tests.dicom_enhanced import one_item
from tests.dicom_files import Edit, Store, make_header, make_uid, save, set_pixels, texts
from tests.tiny import make_case

RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
NAMES = {1: "Organ_Axial", 2: "Lesion_Axial"}
SIGNED = Store(signed=True)


def write_scan(
    folder: Path,
    image: Volume,
    *,
    kind: str = "CT",
    study: int = 1,
    series: int = 1,
    patient: str = "P-1",
    edit: Edit | None = None,
) -> Path:
    """Write an image on RAS axes as a file a slice; its pixels run to the left and to the back, as usual."""
    columns, rows, slices = image.geometry.shape
    spacing_mm = image.geometry.spacing_mm
    for k in range(slices):
        dataset = make_header(kind, series=series, study=study, patient=patient)
        dataset.SOPInstanceUID = make_uid(study, series, k + 1)
        dataset.InstanceNumber = k + 1
        first = image.geometry.to_world((columns - 1, rows - 1, k)) * RAS_TO_LPS
        dataset.ImagePositionPatient = texts(first)
        dataset.ImageOrientationPatient = texts((1, 0, 0, 0, 1, 0))
        dataset.PixelSpacing, dataset.SliceThickness = texts((spacing_mm[1], spacing_mm[0])), spacing_mm[2]
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
        pixels = image.array[0, ::-1, ::-1, k].T.astype(np.int16).view(np.uint16)
        set_pixels(dataset, np.ascontiguousarray(pixels)[None], SIGNED)
        if edit is not None:
            edit(dataset, k)
        save(folder / f"{kind}_{series}_{k:03d}.dcm", dataset)
    return folder


def write_structures(
    path: Path, label: Labels, images: Path, *, series: int = 9, names: Mapping[int, str] = NAMES
) -> Path:
    """Write boxes 1 and, inside it, 2 as structures of the images of a folder: 1 has a hole where 2 is."""
    sources = [dcmread(one, stop_before_pixels=True) for one in sorted(images.glob("*.dcm"))]
    first = sources[0]
    dataset = Dataset()
    dataset.update(make_header("RTSTRUCT", series=series, patient=str(first.PatientID)))
    del dataset.ImageType, dataset.PatientPosition
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = f"{first.StudyInstanceUID}.{series}.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        first.StudyInstanceUID,
        f"{first.StudyInstanceUID}.{series}",
    )
    dataset.StructureSetLabel = "plan"
    own = one_item(SeriesInstanceUID=first.SeriesInstanceUID)
    study = one_item(ReferencedSOPInstanceUID=first.StudyInstanceUID, RTReferencedSeriesSequence=own)
    dataset.ReferencedFrameOfReferenceSequence = one_item(
        FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=study
    )
    dataset.StructureSetROISequence = [
        one_item(ROINumber=value, ROIName=name, ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID)[0]
        for value, name in names.items()
    ]
    dataset.ROIContourSequence = [
        one_item(ReferencedROINumber=value, ContourSequence=list_contours(label, value))[0] for value in names
    ]
    save(path, dataset)
    return path


def list_contours(label: Labels, value: int) -> list[Dataset]:
    """Return a rectangle a slice around the voxels of a label, and one around what it surrounds."""
    found = []
    for k in range(label.geometry.shape[2]):
        plane = label.array[..., k]
        if value in plane:
            boxes = [plane >= value] + ([plane > value] if (plane > value).any() else [])
            found += [make_contour(box, k, label.geometry) for box in boxes]
    return found


def make_contour(box: NDArray[np.bool_], k: int, geometry: Geometry) -> Dataset:
    i, j = (np.flatnonzero(box.any(axis=other)) for other in (1, 0))
    low, high = (i[0] - 0.5, j[0] - 0.5), (i[-1] + 0.5, j[-1] + 0.5)
    corners = [(*low, k), (high[0], low[1], k), (*high, k), (low[0], high[1], k)]
    points = geometry.to_world(np.array(corners)) * RAS_TO_LPS
    return one_item(
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=4,
        ContourData=[f"{value:.4f}" for value in points.ravel()],
    )[0]


def write_study(folder: Path, number: int, *, kinds: tuple[str, ...] = ("CT",)) -> tuple[Volume, Labels]:
    """Write one patient's study: a series with an RTSTRUCT of each kind, all of one image and label."""
    image, label = make_case(number)
    for series, kind in enumerate(kinds, start=1):
        images = folder / kind / "image"
        write_scan(images, image, kind=kind, study=number + 1, series=series, patient=f"P-{number}")
        write_structures(folder / kind / "mask" / "RS.dcm", label, images, series=series + 10)
    return image, label


def write_dicom_cohort(root: Path, count: int = 6, kinds: tuple[str, ...] = ("CT",)) -> Path:
    """Write a folder a patient."""
    for number in range(count):
        write_study(root / f"patient {number}", number, kinds=kinds)
    return root
