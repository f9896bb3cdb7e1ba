"""Series to repair on request, and series that are read with a warning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import JPEG2000

from tests.dicom_edits import Build, Case, beside, copy, drop, one, put, reject, several, tilted, warn
from tests.dicom_enhanced import Object, in_order, write_enhanced
from tests.dicom_files import (
    AXIAL,
    DOUBLE_OBLIQUE,
    FLAT_RAMP,
    LARGE,
    Edit,
    Grid,
    Ramp,
    Store,
    Truth,
    write_series,
)
from tests.dicom_objects import write_localizer


def repair(name: str, code: str, build: Build, *flags: str, repaired: str = "") -> Case:
    return Case(name, "repair", build, code, flags, repaired=repaired)


def tilt(name: str, grid: Grid, **plan: object) -> Case:
    return repair(
        name, "DICOM_TILT", one(grid, slack=1.2, **plan), "--allow-tilt", repaired="DICOM_TILT_REPAIRED"
    )


def uneven_steps(name: str, *at: float, grid: Grid = AXIAL) -> Case:
    build = one(replace(grid, at=at), slack=1.2)
    return repair(name, "DICOM_SPACING", build, "--allow-resample-z", repaired="DICOM_Z_RESAMPLED")


def tilted_enhanced(folder: Path) -> tuple[Truth, ...]:
    truth = write_enhanced(folder / "image", in_order((3, 0, 4, 1, 2), tilted(10)), Object(kind="CT"))
    return (replace(truth, slack=1.2),)


REPAIR = [
    tilt("tilt_of_5_degrees", tilted(5)),
    tilt("tilt_of_15_degrees", tilted(15), edit=put(GantryDetectorTilt="15")),
    tilt("tilt_of_minus_20_degrees", tilted(-20)),
    tilt("tilt_of_1_degree", tilted(1)),
    tilt("tilt_sideways", tilted(12, sideways=True)),
    tilt("tilt_of_a_sagittal_series", Grid(row=(0, 1, 0), column=(0, 0, -1), step_mm=(-3.0, 0.0, 0.6))),
    tilt("tilt_of_an_oblique_series", tilted(10).turned(15, 20, -8)),
    tilt("tilt_in_descending_order", replace(tilted(15), at=(4.0, 3.0, 2.0, 1.0, 0.0))),
    repair(
        "tilt_of_an_enhanced_object",
        "DICOM_TILT",
        tilted_enhanced,
        "--allow-tilt",
        repaired="DICOM_TILT_REPAIRED",
    ),
    uneven_steps("steps_off_by_a_tenth", 0.0, 1.0, 2.1, 3.0, 4.0),
    uneven_steps("steps_of_3_and_4_and_a_half", 0.0, 1.0, 2.0, 3.5, 5.0),
    uneven_steps("steps_grow", 0.0, 1.0, 2.2, 3.7, 5.5),
    uneven_steps("last_slice_too_near", 0.0, 1.0, 2.0, 3.0, 3.6),
    uneven_steps("steps_differ_in_an_oblique_series", 0.0, 1.0, 2.0, 3.5, 5.0, grid=DOUBLE_OBLIQUE),
    repair(
        "one_slice_of_unknown_thickness_stated",
        "DICOM_THICKNESS",
        one(replace(AXIAL, at=(0.0,)), edit=drop("SliceThickness")),
        "--slice-thickness",
        "3",
    ),
    reject(
        "tilt_and_uneven_steps_and_leave_for_one",
        "DICOM_SPACING|DICOM_TILT|DICOM_SHIFTED",
        one(replace(tilted(15), at=(0.0, 1.0, 2.0, 3.5, 5.0))),
        "--allow-tilt",
    ),
]


DOSE_BQ, HALF_LIFE_S, WEIGHT_KG, WAIT_S = 3.5e8, 6586.2, 70.0, 3600.0
SUV = 1000 * WEIGHT_KG / (DOSE_BQ * 2 ** (-WAIT_S / HALF_LIFE_S))
"""Body weight in g over the dose left at the start of the scan (QIBA FDG-PET/CT profile)."""


def radioactive(units: str, *missing: str, **values: object) -> Edit:
    """Say all that an SUV is made of, an hour after the injection."""

    def edit(dataset: Dataset, k: int) -> None:
        item = Dataset()
        item.RadiopharmaceuticalStartTime = "090000"
        item.RadionuclideTotalDose, item.RadionuclideHalfLife = f"{DOSE_BQ:g}", f"{HALF_LIFE_S:g}"
        dataset.RadiopharmaceuticalInformationSequence = Items([item])
        dataset.Units, dataset.DecayCorrection, dataset.PatientWeight = units, "START", f"{WEIGHT_KG:g}"
        dataset.CorrectedImage = ["ATTN", "DECY"]
        dataset.SeriesDate = dataset.AcquisitionDate = "20200102"
        dataset.SeriesTime = dataset.AcquisitionTime = "100000"
        for name, value in values.items():
            setattr(dataset, name, value)
        for name in missing:
            delattr(item if name in item else dataset, name)

    return edit


def pet(units: str, factor: float = 1.0, *missing: str, **values: object) -> Build:
    """Return a builder of a PET series that reads as its ramp times the factor."""

    def make(folder: Path) -> tuple[Truth, ...]:
        store = Store(rescale=((0.05, 0), (0.06, 0), (0.1, 0)))
        truth = write_series(folder, kind="PT", store=store, edit=radioactive(units, *missing, **values))
        x, y, z = truth.ramp.per_mm
        ramp = Ramp((x * factor, y * factor, z * factor), truth.ramp.base * factor)
        return (Truth(truth.grid, ramp, truth.slack * factor),)

    return make


def whole_series_again(folder: Path) -> None:
    for k in range(5):
        copy(f"slice_{k:03d}.dcm", f"again/{9 - k}.dcm")(folder)


WARN = [
    warn("one_file_twice", "DICOM_DUPLICATE", beside(one(), copy("slice_001.dcm", "slice_001 (1).dcm"))),
    warn("all_files_twice", "DICOM_DUPLICATE", beside(one(), whole_series_again)),
    warn(
        "one_slice_twice_under_another_uid",
        "DICOM_DUPLICATE",
        several(one(), lambda folder: (write_series(folder, replace(AXIAL, at=(2.0,)), first=20), ())[1]),
    ),
    warn("monochrome1", "DICOM_MONOCHROME1", one(edit=put(PhotometricInterpretation="MONOCHROME1"))),
    warn("dirty_high_bits", "DICOM_HIGH_BITS", one(store=Store(stored=12, dirt=0xA000))),
    warn(
        "dirty_high_bits_signed",
        "DICOM_HIGH_BITS",
        one(store=Store(stored=12, signed=True, dirt=0x5000), ramp=Ramp(base=-100)),
    ),
    warn("lossy_once", "DICOM_LOSSY", one(edit=put(LossyImageCompression="01"))),
    warn(
        "lossy_jpeg_2000",
        "DICOM_LOSSY",
        one(LARGE, store=Store(stored=12, syntax=JPEG2000), ramp=FLAT_RAMP, slack=6.0),
    ),
    warn("fewer_images_than_acquired", "DICOM_FEWER_IMAGES", one(edit=put(ImagesInAcquisition=9))),
    warn(
        "laterality_contradicts_itself",
        "DICOM_LATERALITY",
        one(kind="MR", edit=put(Laterality="L", ImageLaterality="R")),
    ),
    warn(
        "patient_orientation_contradicts",
        "DICOM_PATIENT_POSITION",
        one(edit=put(PatientOrientation=["R", "A"])),
    ),
    warn("patient_position_contradicts", "DICOM_PATIENT_POSITION", one(edit=put(PatientPosition="HFP"))),
    warn("localizer_in_the_series", "DICOM_LEFT_OUT", beside(one(), write_localizer(1))),
    warn("suv", "DICOM_SUV_APPLIED", pet("BQML", SUV), "--suv"),
    warn("suv_already", "DICOM_SUV_ALREADY", pet("GML"), "--suv"),
    reject("suv_without_dose", "DICOM_SUV", pet("BQML", SUV, "RadionuclideTotalDose"), "--suv"),
    reject("suv_without_weight", "DICOM_SUV", pet("BQML", SUV, "PatientWeight"), "--suv"),
    reject("suv_of_counts", "DICOM_SUV", pet("CNTS", SUV), "--suv"),
    reject("suv_of_ct", "DICOM_SUV", one(), "--suv"),
]
