"""Series that are good, however they are stored, named and turned: each must be read without a warning."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from tests.dicom_edits import (
    Build,
    Case,
    accept,
    beside,
    drop,
    one,
    place,
    put,
    put_each,
    raw,
    several,
    tilted,
)
from tests.dicom_files import (
    AXIAL,
    CORONAL,
    DOUBLE_OBLIQUE,
    OBLIQUE,
    SAGITTAL,
    Edit,
    Grid,
    Ramp,
    Truth,
    make_uid,
    texts,
    write_series,
)
from tests.dicom_objects import (
    write_dicomdir,
    write_key_objects,
    write_localizer,
    write_report,
    write_screenshot,
    write_structures,
)


def shift_each(*offsets_mm: float) -> Edit:
    """Move the stated (not the true) position of slice k along the normal."""

    def edit(dataset: Dataset, k: int) -> None:
        moved = [float(value) for value in dataset.ImagePositionPatient]
        dataset.ImagePositionPatient = texts(
            np.array(moved) + np.array([0, 0, offsets_mm[k % len(offsets_mm)]])
        )

    return edit


def round_positions(dataset: Dataset, k: int) -> None:
    dataset.ImagePositionPatient = [f"{float(v):.2f}" for v in dataset.ImagePositionPatient]


def round_cosines(dataset: Dataset, k: int) -> None:
    dataset.ImageOrientationPatient = [f"{float(v):.4f}" for v in dataset.ImageOrientationPatient]


def renamed(build: Build, suffix: str) -> Build:
    def make(folder: Path) -> tuple[Truth, ...]:
        truths = build(folder)
        for path in sorted(folder.rglob("*.dcm")):
            path.rename(path.with_suffix(suffix))
        return truths

    return make


def link(name: str, to: str = "") -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(folder / to)


def write_pair(folder: Path) -> tuple[Truth, ...]:
    """Write two patients, each with one series."""
    first = write_series(folder / "a")
    return first, write_series(folder / "b", SAGITTAL, ramp=Ramp(base=1500), study=2, patient="P-2")


def write_fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe.dcm")


LABELLED = (["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"])

ORDER = [
    accept("plain", one()),
    accept("random_names", one(name="{folder}/{h}.dcm")),
    accept("no_extension", one(name="{folder}/{h}")),
    accept("extension_ima", renamed(one(), ".IMA")),
    accept("names_with_line_breaks", one(name="{folder}/a\nCODE b: c {k}\r.dcm")),
    accept("names_of_no_encoding", one(name="{folder}/\udcff{k}.dcm")),
    accept("nested_folders", one(name="{folder}/{k}/deep/slice.dcm")),
    accept("link_to_the_folder_itself", beside(one(name="{folder}/s/{k}"), link("s/loop"))),
    accept("link_to_a_folder_that_is_there", beside(one(name="{folder}/s/{k}"), link("again", "s"))),
    accept("dicomdir", beside(one(name="{folder}/S/I{k}"), write_dicomdir)),
    accept(
        "other_files",
        beside(
            one(),
            place("notes.txt", b"axial\n"),
            place("._slice_000.dcm", b"\x00\x05\x16\x07" + bytes(60)),
            place(".DS_Store", bytes(40)),
            place("viewer/autorun.inf", b"[autorun]\r\n"),
            place("preview.jpg", b"\xff\xd8\xff\xe0" + bytes(60)),
            place("done.txt", b""),
        ),
    ),
    accept("pipe_in_the_folder", beside(one(), write_fifo)),
    accept("instance_number_reversed", one(edit=put_each(InstanceNumber=lambda k: 9 - k))),
    accept("instance_number_all_equal", one(edit=put(InstanceNumber=1))),
    accept("instance_number_absent", one(edit=drop("InstanceNumber"))),
    accept("instance_number_is_no_number", one(edit=raw("InstanceNumber", b"1a"))),
    accept("slice_location_wrong", one(edit=put_each(SliceLocation=lambda k: 100 - 7 * k))),
    accept("acquisition_times_differ", one(edit=put_each(AcquisitionTime=lambda k: f"10111{k}"))),
    accept("interleaved_in_two_acquisitions", one(edit=put_each(AcquisitionNumber=lambda k: 1 + k % 2))),
    accept("acquisition_by_slice", one(edit=put_each(AcquisitionNumber=lambda k: k + 1))),
    accept("acquisitions_follow_each_other", one(edit=put_each(AcquisitionNumber=lambda k: 1 + k // 3))),
    accept("image_type_differs_by_slice", one(edit=put_each(ImageType=lambda k: LABELLED[k % 2]))),
    accept("one_uid_for_all_slices", one(edit=put(SOPInstanceUID=make_uid(1, 1, 1)))),
    accept(
        "study_and_class_and_modality_absent", one(edit=drop("StudyInstanceUID", "SOPClassUID", "Modality"))
    ),
    accept("sop_instance_uid_absent", one(edit=drop("SOPInstanceUID"))),
    accept("series_of_secondary_captures", one(edit=put(SOPClassUID=SecondaryCaptureImageStorage))),
    accept(
        "content_and_trigger_times_differ",
        one(kind="MR", edit=put_each(ContentTime=lambda k: f"10111{k}.5", TriggerTime=lambda k: 20 * k + 3)),
    ),
    accept(
        "numbers_written_differently",
        one(
            kind="MR",
            edit=put_each(EchoTime=lambda k: ["4.6", "4.60", "4.6e0", "+4.6", "04.600 "][k].strip()),
        ),
    ),
    accept("window_differs", one(edit=put_each(WindowCenter=lambda k: 10 * k, WindowWidth=lambda k: 50 + k))),
    accept(
        "description_and_number_differ",
        one(edit=put_each(SeriesDescription=lambda k: f"part {k}", SeriesNumber=lambda k: k)),
    ),
    accept("two_patients", write_pair),
    accept(
        "two_studies_of_a_patient",
        several(
            one(name="{folder}/a/{k}"),
            one(SAGITTAL, ramp=Ramp(base=1500), study=2, name="{folder}/b/{k}"),
        ),
    ),
    accept("patient_id_padded", one(edit=put_each(PatientID=lambda k: "P-1" + " " * (k % 2)))),
    accept("patient_id_absent", one(edit=drop("PatientID", "PatientName"))),
    accept("frame_of_reference_absent", one(edit=drop("FrameOfReferenceUID"))),
    accept(
        "reports_and_structures_beside",
        beside(one(), write_report, write_structures, write_key_objects),
    ),
    accept("localizer_in_its_own_series", beside(one(), write_localizer(7, planes=3))),
    accept("screenshot_in_its_own_series", beside(one(), write_screenshot)),
]

GRIDS = [
    accept("descending_in_file_order", one(replace(AXIAL, at=(4.0, 3.0, 2.0, 1.0, 0.0)))),
    accept("feet_first", one(replace(AXIAL, at=(0.0, -1.0, -2.0, -3.0)), edit=put(PatientPosition="FFS"))),
    accept("prone", one(Grid(row=(-1, 0, 0), column=(0, -1, 0)), edit=put(PatientPosition="HFP"))),
    accept("rows_along_y", one(Grid(row=(0, 1, 0), column=(1, 0, 0)))),
    accept("sagittal", one(SAGITTAL, kind="MR")),
    accept("coronal", one(CORONAL, kind="MR")),
    accept("oblique", one(OBLIQUE, kind="MR")),
    accept("double_oblique", one(DOUBLE_OBLIQUE, kind="MR")),
    accept("nearly_45_degrees", one(Grid().turned(45, 45, 45), kind="MR")),
    accept(
        "far_from_the_origin", one(replace(AXIAL, origin_mm=(-13.0, 21.0, -1840.5)), ramp=Ramp(base=71000))
    ),
    accept(
        "jitter_of_a_thousandth",
        one(edit=shift_each(0.001, -0.001, 0.0005, 0.001, -0.0005), slack=0.65),
    ),
    accept("jitter_as_real_scanners_have", one(edit=shift_each(0.0001, -0.0001), slack=0.6)),
    accept("cosines_of_four_digits", one(DOUBLE_OBLIQUE, edit=round_cosines, kind="MR", slack=0.65)),
    accept("positions_of_two_digits", one(DOUBLE_OBLIQUE, edit=round_positions, kind="MR", slack=0.9)),
    accept("shear_of_a_half_thousandth", one(tilted(0.028), slack=0.75)),
    accept("thickness_wrong", one(edit=put(SliceThickness="1"))),
    accept("thickness_absent", one(edit=drop("SliceThickness"))),
    accept("thickness_zero", one(edit=put(SliceThickness="0"))),
    accept("slices_overlap", one(edit=put(SliceThickness="5", SpacingBetweenSlices="3"))),
    accept("slices_with_gaps_between", one(edit=put(SliceThickness="2", SpacingBetweenSlices="3"))),
    accept("spacing_between_slices_wrong", one(edit=put(SpacingBetweenSlices="1.5"))),
    accept("spacing_between_slices_negative", one(edit=put(SpacingBetweenSlices="-3"))),
    accept(
        "other_spacings_differ",
        one(
            edit=put(ImagerPixelSpacing=["1", "1"], PixelAspectRatio=["1", "1"], ReconstructionDiameter="99")
        ),
    ),
    accept(
        "pixel_spacing_of_other_digits", one(edit=put_each(PixelSpacing=lambda k: ["1.25", f"0.7500000{k}"]))
    ),
    accept("step_below_a_millimetre", one(Grid(step_mm=(0, 0, 0.3)), edit=put(SliceThickness="0.6"))),
    accept("one_row", one(replace(AXIAL, rows=1))),
    accept("one_column", one(replace(AXIAL, columns=1))),
    accept("two_slices", one(replace(AXIAL, at=(0.0, 1.0)))),
    accept("one_slice", one(replace(AXIAL, at=(0.0,)))),
]

ACCEPT: list[Case] = [*ORDER, *GRIDS]
