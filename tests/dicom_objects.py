"""Writes what lies beside scans in an export: directories, localizers, reports, structures, screenshots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MediaStorageDirectoryStorage,
    RTDoseStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from tests.dicom_edits import put
from tests.dicom_enhanced import one_item
from tests.dicom_files import Grid, Store, make_header, make_uid, save, set_pixels, write_series

Write = Callable[[Path], None]


def write_dicomdir(folder: Path) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = MediaStorageDirectoryStorage, make_uid(8, 8)
    dataset.FileSetID = "EXPORT"
    dataset.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    dataset.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    dataset.FileSetConsistencyFlag = 0
    dataset.DirectoryRecordSequence = Items([])
    save(folder / "DICOMDIR", dataset)


def write_bare(name: str, sop_class: str, modality: str, series: int, **values: object) -> Write:
    """Return a writer of an object without pixels."""

    def write(folder: Path) -> None:
        dataset = make_header(modality, series=series)
        del dataset.ImageType, dataset.FrameOfReferenceUID
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, make_uid(1, series, 1)
        for key, value in values.items():
            setattr(dataset, key, value)
        save(folder / name, dataset)

    return write


write_report = write_bare("report.dcm", BasicTextSRStorage, "SR", 51, ContentSequence=Items([]))
write_key_objects = write_bare("key", KeyObjectSelectionDocumentStorage, "KO", 52)
write_presentation = write_bare("state", GrayscaleSoftcopyPresentationStateStorage, "PR", 53)
write_pdf = write_bare("letter", EncapsulatedPDFStorage, "DOC", 54, EncapsulatedDocument=b"%PDF-1.4")
write_structures = write_bare(
    "structures.dcm",
    RTStructureSetStorage,
    "RTSTRUCT",
    55,
    StructureSetROISequence=Items([]),
    ROIContourSequence=Items([]),
)


def write_pixels(name: str, sop_class: str, modality: str, series: int, **values: object) -> Write:
    """Return a writer of an object with pixels that are no scan."""

    def write(folder: Path) -> None:
        dataset = make_header(modality, series=series)
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, make_uid(1, series, 1)
        set_pixels(dataset, np.zeros((3, 6, 7), np.uint16), Store())
        dataset.NumberOfFrames = 3
        dataset.ImagePositionPatient = [0, 0, 0]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing = [1, 1]
        for key, value in values.items():
            setattr(dataset, key, value)
        save(folder / name, dataset)

    return write


write_dose = write_pixels("dose", RTDoseStorage, "RTDOSE", 61, GridFrameOffsetVector=[0, 3, 6])
write_segmentation = write_pixels(
    "segmentation",
    SegmentationStorage,
    "SEG",
    62,
    SegmentationType="BINARY",
    SegmentSequence=one_item(SegmentNumber=1, SegmentLabel="organ"),
)


def write_screenshot(folder: Path) -> None:
    """Write a dose page: an RGB secondary capture without a position."""
    dataset = make_header("CT", series=63)
    del dataset.FrameOfReferenceUID
    dataset.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, make_uid(1, 63, 1)
    set_pixels(dataset, np.zeros((1, 6, 21), np.uint8), Store(bits=8))
    dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 7, 3, "RGB"
    dataset.PlanarConfiguration = 0
    save(folder / "screen.dcm", dataset)


LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
LOCALIZER_GRID = Grid(origin_mm=(-60, 0, 90), row=(1, 0, 0), column=(0, 0, -1), at=(0.0,), rows=9, columns=8)


def write_localizer(series: int, *, planes: int = 1) -> Write:
    """Return a writer of a scout of 1 to 3 planes, as the given series."""

    def write(folder: Path) -> None:
        for number in range(planes):
            grid = replace(LOCALIZER_GRID, origin_mm=(-60, 5.0 * number, 90)).turned(z=60 * number)
            write_series(
                folder,
                grid,
                series=series,
                first=90 + number,
                edit=put(ImageType=LOCALIZER),
                name="{folder}/scout_{k}",
            )

    return write
