"""Slices that no volume can be made of without guessing: each series is refused with its code and numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset

from tests.dicom_edits import (
    REPAIRS,
    Build,
    Case,
    beside,
    both,
    drop,
    one,
    only,
    put,
    put_each,
    reject,
    remove,
    several,
    tilted,
)
from tests.dicom_files import AXIAL, Edit, Ramp, Truth, make_uid, texts, write_series


def without(*missing: int, count: int = 8) -> Build:
    """Return a builder of a series that lacks slices."""
    at = tuple(float(k) for k in range(count) if k not in missing)
    return one(replace(AXIAL, at=at))


def shift_in_plane(k: int, x_mm: float, y_mm: float) -> Edit:
    def edit(dataset: Dataset, at: int) -> None:
        x, y, z = (float(v) for v in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = texts((x + x_mm, y + y_mm, z))

    return only(k, edit)


def numbered(*numbers: int | None) -> Build:
    """Return a builder of three volumes that nothing tells apart but the numbers given, volume by volume."""

    def number(dataset: Dataset, k: int) -> None:
        at = int(dataset.InstanceNumber) - 1
        if numbers[at] is None:
            del dataset.InstanceNumber
        else:
            dataset.InstanceNumber = numbers[at]

    def make(folder: Path) -> tuple[Truth, ...]:
        ramps = [Ramp(base=1000.0 + 611 * v) for v in range(3)]
        for v, ramp in enumerate(ramps):
            write_series(folder, kind="MR", ramp=ramp, first=5 * v, edit=number)
        return tuple(Truth(AXIAL, ramp) for ramp in ramps)

    return make


def told_by_number(
    volumes: int, slices: int, *, missing: tuple[tuple[int, int], ...], has_echoes: bool = False
) -> Build:
    """Return a builder of volumes, numbered one after the other, that lack slices at different positions."""

    def make(folder: Path) -> tuple[Truth, ...]:
        truths = []
        for v in range(volumes):
            edit = put(EchoTime=4.6 * (v + 1)) if has_echoes else None
            grid = replace(AXIAL, at=tuple(map(float, range(slices))))
            ramp = Ramp(base=1000.0 + 611 * v)
            truths.append(write_series(folder, grid, kind="MR", ramp=ramp, first=v * slices, edit=edit))
        for v, k in missing:
            (folder / f"slice_{v * slices + k:03d}.dcm").unlink()
        return tuple(truths)

    return make


REJECT: list[Case] = [
    reject("slice_missing", "DICOM_GAP", without(3), *REPAIRS, says=(r"\b6 mm between 46 and 52 mm",)),
    reject(
        "two_slices_missing", "DICOM_GAP", without(3, 4), *REPAIRS, says=(r"\b9 mm between 46 and 55 mm",)
    ),
    reject("slices_missing_at_two_places", "DICOM_GAP", without(2, 5, 6), *REPAIRS),
    reject("slice_missing_of_four", "DICOM_GAP", without(2, count=4), *REPAIRS, says=(r"\b6\b",)),
    reject("every_other_slice_missing_in_one_half", "DICOM_GAP|DICOM_SPACING", without(5, 7, 9, count=11)),
    reject(
        "slice_missing_in_a_tilted_series",
        "DICOM_GAP",
        one(replace(tilted(12), at=(0.0, 1.0, 2.0, 4.0, 5.0))),
        *REPAIRS,
    ),
    reject("file_removed", "DICOM_GAP", beside(one(), remove("slice_002.dcm")), *REPAIRS),
    reject(
        "same_position_other_pixels",
        "DICOM_OVERLAP",
        several(one(), one(replace(AXIAL, at=(2.0,)), ramp=Ramp(base=1300), first=20)),
        *REPAIRS,
    ),
    reject(
        "same_position_other_pixels_and_same_uid",
        "DICOM_OVERLAP",
        several(
            one(),
            one(
                replace(AXIAL, at=(2.0,)),
                ramp=Ramp(base=1300),
                first=20,
                edit=put(SOPInstanceUID=make_uid(1, 1, 3)),
            ),
        ),
        *REPAIRS,
    ),
    reject(
        "nearly_same_position_other_pixels",
        "DICOM_OVERLAP",
        several(one(), one(replace(AXIAL, at=(2.0005,)), ramp=Ramp(base=1300), first=20)),
        *REPAIRS,
    ),
    reject("volumes_told_by_nothing", "DICOM_OVERLAP", numbered(*[None] * 15)),
    reject("volumes_numbered_alike", "DICOM_OVERLAP|SERIES_AMBIGUOUS", numbered(*[1, 2, 3, 4, 5] * 3)),
    reject(
        "volumes_numbered_at_random",
        "DICOM_OVERLAP",
        numbered(12, 3, 9, 7, 1, 5, 14, 2, 11, 6, 8, 4, 15, 10, 13),
    ),
    reject(
        "volumes_told_by_number_and_a_file_removed",
        "DICOM_OVERLAP|DICOM_GAP|SERIES_AMBIGUOUS",
        beside(numbered(*range(1, 16)), remove("slice_007.dcm")),
    ),
    reject(
        "volumes_told_by_number_slice_by_slice_and_a_file_removed",
        "DICOM_OVERLAP|DICOM_GAP|SERIES_AMBIGUOUS",
        beside(numbered(*(3 * k + v + 1 for v in range(3) for k in range(5))), remove("slice_007.dcm")),
    ),
    reject(
        "volumes_told_by_number_and_files_removed_that_make_up_for_each_other",
        "DICOM_OVERLAP|DICOM_GAP|SERIES_AMBIGUOUS",
        told_by_number(4, 2, missing=((1, 1), (2, 0))),
    ),
    reject(
        "echoes_of_which_two_are_incomplete",
        "DICOM_OVERLAP|DICOM_GAP|SERIES_AMBIGUOUS",
        told_by_number(4, 3, missing=((0, 0), (0, 2), (1, 1)), has_echoes=True),
    ),
    reject(
        "two_stations_apart",
        "DICOM_GAP|SERIES_AMBIGUOUS",
        several(
            one(edit=put(AcquisitionNumber=1)),
            one(replace(AXIAL, at=(7.0, 8.0, 9.0)), edit=put(AcquisitionNumber=2), first=20),
        ),
    ),
    reject(
        "study_uid_by_slice",
        "DICOM_MIXED_STUDIES",
        one(edit=put_each(StudyInstanceUID=lambda k: make_uid(50 + k))),
    ),
    reject(
        "series_uid_absent",
        "DICOM_HEADER|DICOM_DAMAGED|DICOM_MIXED_STUDIES",
        one(edit=drop("SeriesInstanceUID")),
    ),
    reject("slice_shifted_in_its_plane", "DICOM_SHIFTED", one(edit=shift_in_plane(2, 4.0, 0)), *REPAIRS),
    reject(
        "last_slice_shifted_in_its_plane", "DICOM_SHIFTED", one(edit=shift_in_plane(4, 0, -2.0)), *REPAIRS
    ),
    reject(
        "slices_shifted_to_and_fro",
        "DICOM_SHIFTED",
        one(edit=both(shift_in_plane(1, 0, 2.0), shift_in_plane(3, 0, 2.0))),
        *REPAIRS,
    ),
    reject(
        "last_slice_of_other_orientation",
        "DICOM_MIXED_ORIENTATION",
        one(edit=only(4, put(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))),
    ),
    reject(
        "slice_turned_in_its_plane",
        "DICOM_MIXED_ORIENTATION",
        one(edit=only(2, put(ImageOrientationPatient=[0, 1, 0, -1, 0, 0]))),
    ),
    reject(
        "slice_mirrored_in_its_plane",
        "DICOM_MIXED_ORIENTATION",
        one(edit=only(2, put(ImageOrientationPatient=[-1, 0, 0, 0, 1, 0]))),
    ),
    reject(
        "slice_turned_by_two_degrees",
        "DICOM_MIXED_ORIENTATION",
        one(edit=only(3, put(ImageOrientationPatient=texts((1, 0, 0, 0, 0.99939083, 0.0348995))))),
    ),
    reject(
        "slice_of_other_rows",
        "DICOM_MIXED_SIZE",
        several(one(replace(AXIAL, at=(0.0, 1.0, 3.0))), one(replace(AXIAL, at=(2.0,), rows=8), first=20)),
    ),
    reject(
        "slice_of_other_pixel_spacing",
        "DICOM_MIXED_SIZE",
        one(edit=only(4, put(PixelSpacing=["1.25", "0.8"]))),
    ),
    reject(
        "frames_of_reference_differ",
        "DICOM_MIXED_FRAMES",
        one(edit=put_each(FrameOfReferenceUID=lambda k: make_uid(1, 0, 9 + k // 3))),
    ),
    reject("two_patients_in_one_series", "DICOM_MIXED_PATIENTS", one(edit=only(2, put(PatientID="P-2")))),
    reject(
        "photometric_mixed",
        "DICOM_MIXED_PIXELS",
        one(edit=only(2, put(PhotometricInterpretation="MONOCHROME1"))),
    ),
]
