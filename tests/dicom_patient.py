"""One patient's images, structures and segmentation as DICOM files, and Debian's verifier of such files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import RTStructureSetStorage

from tests.dicom_enhanced import Object, in_order, one_item, write_enhanced
from tests.dicom_files import Grid, make_header, make_uid, save, write_series


def write_patient(folder: Path) -> dict[str, Path]:
    """Write a CT and an MR series, an enhanced MR, an RTSTRUCT and a SEG of the CT; return a file of each."""
    grid = Grid(at=(0.0, 1.0, 2.0))
    write_series(folder / "ct", grid, kind="CT", series=1)
    write_series(folder / "mr", grid, kind="MR", series=2)
    write_enhanced(folder / "enhanced" / "e.dcm", in_order([2, 0, 1], grid), Object(series=3))
    write_rtstruct(folder / "rt" / "r.dcm", folder / "ct")
    write_seg(folder / "seg" / "s.dcm", folder / "ct")
    return {
        "CT": folder / "ct" / "slice_000.dcm",
        "MR": folder / "mr" / "slice_000.dcm",
        "enhanced": folder / "enhanced" / "e.dcm",
        "RTSTRUCT": folder / "rt" / "r.dcm",
        "SEG": folder / "seg" / "s.dcm",
    }


def write_rtstruct(path: Path, images: Path, names: tuple[str, ...] = ("GTV", "Lung", "GTV")) -> None:
    """Write structures, one square contour each, that refer to every image of a folder."""
    sources = [dcmread(one, stop_before_pixels=True) for one in sorted(images.iterdir())]
    dataset = make_header("RTSTRUCT", series=4)
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, make_uid(1, 4, 1)
    del dataset.ImageType, dataset.PatientPosition
    dataset.StructureSetLabel, dataset.StructureSetDate, dataset.StructureSetTime = (
        "plan",
        "20200102",
        "101112",
    )
    refs = [
        one_item(ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID)[0]
        for one in sources
    ]
    series = one_item(SeriesInstanceUID=sources[0].SeriesInstanceUID, ContourImageSequence=refs)
    study = one_item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=sources[0].StudyInstanceUID,
        RTReferencedSeriesSequence=series,
    )
    dataset.ReferencedFrameOfReferenceSequence = one_item(
        FrameOfReferenceUID=sources[0].FrameOfReferenceUID, RTReferencedStudySequence=study
    )
    regions, contours, notes = [], [], []
    for number, name in enumerate(names, start=1):
        regions += one_item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=sources[0].FrameOfReferenceUID,
            ROIName=name,
            ROIGenerationAlgorithm="MANUAL",
        )
        corners = [-12, 22, 40, -10, 22, 40, -10, 24, 40, -12, 24, 40]
        contour = one_item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=4, ContourData=corners)
        contour[0].ContourImageSequence = [refs[0]]
        contours += one_item(ReferencedROINumber=number, ContourSequence=contour)
        notes += one_item(
            ObservationNumber=number,
            ReferencedROINumber=number,
            RTROIInterpretedType="GTV",
            ROIInterpreter="",
        )
    dataset.StructureSetROISequence, dataset.ROIContourSequence = regions, contours
    dataset.RTROIObservationsSequence = notes
    save(path, dataset)


def write_seg(path: Path, images: Path) -> None:
    """Write a binary segmentation of the images of a folder."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    sources = [dcmread(one) for one in sorted(images.iterdir())]
    for one in sources:
        one.AccessionNumber, one.ReferringPhysicianName = "", ""
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type="MANUAL",
        tracking_uid=make_uid(1, 5, 99),
        tracking_id="lesion 1",
    )
    mask = np.zeros((len(sources), sources[0].Rows, sources[0].Columns), np.uint8)
    mask[:, 1:3, 2:5] = 1
    seg = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=[description],
        series_instance_uid=make_uid(1, 5),
        series_number=5,
        sop_instance_uid=make_uid(1, 5, 1),
        instance_number=1,
        manufacturer="Phantom Works",
        manufacturer_model_name="M",
        software_versions="1",
        device_serial_number="7",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)


# ---- the verifier ------------------------------------------------------------------------------------------


def count_errors(path: Path) -> int:
    """Return how many errors `dciodvfy` finds in a file."""
    if shutil.which("dciodvfy") is None:
        if os.environ.get("CI"):
            pytest.fail("dciodvfy is not installed; it is in Debian's dicom3tools")
        pytest.skip("dciodvfy is not installed; it is in Debian's dicom3tools")
    found = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
    return len(re.findall(rb"^Error", found.stdout + found.stderr, re.M))
