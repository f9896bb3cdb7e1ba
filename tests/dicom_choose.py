"""Series to choose from, series to repair on request, and series that are read with a warning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from tests.dicom_edits import (
    Build,
    both,
    choose,
    one,
    only,
    put,
    put_each,
    several,
)
from tests.dicom_enhanced import MEASURES, RESCALE, Object, Part, one_item, write_enhanced
from tests.dicom_files import (
    AXIAL,
    SAGITTAL,
    Grid,
    Ramp,
    Truth,
    make_uid,
    write_series,
)

Traits = Callable[[int], dict[str, object]]


def volume_ramp(v: int) -> Ramp:
    """Return the ramp of volume v: so far from the others that no two can be taken for one another."""
    return Ramp(base=1000.0 + 611 * v)


def volumes(
    traits: Traits, count: int = 3, grid: Grid = AXIAL, *, kind: str = "MR", by_slice: bool = False
) -> Build:
    """Return a builder of several volumes in one series.

    Args:
        traits: What the header of volume v says.
        by_slice: Instance numbers count the volumes of a slice first, then the slices.
    """

    def make(folder: Path) -> tuple[Truth, ...]:
        truths = []
        for v in range(count):
            edit = put(**traits(v))
            if by_slice:
                edit = both(edit, put_each(InstanceNumber=lambda k, v=v: k * count + v + 1))
            first = v * len(grid.at)
            truths.append(write_series(folder, grid, kind=kind, ramp=volume_ramp(v), edit=edit, first=first))
        return tuple(truths)

    return make


def uneven(*coverage: tuple[float, ...]) -> Build:
    """Return a builder of acquisitions that cover different slices."""

    def make(folder: Path) -> tuple[Truth, ...]:
        return tuple(
            write_series(
                folder,
                replace(AXIAL, at=at),
                ramp=volume_ramp(v),
                first=20 * v,
                edit=put(AcquisitionNumber=v + 1, NominalPercentageOfCardiacPhase=40 * v),
            )
            for v, at in enumerate(coverage)
        )

    return make


def beside_nothing(build: Build) -> Build:
    """Return a builder of what cannot be read: no truth comes of it."""
    return lambda folder: (build(folder), ())[1]


def uid_by_slice(folder: Path) -> tuple[Truth, ...]:
    """Write a series that an anonymiser gave a new UID file by file."""
    edit = put_each(SeriesInstanceUID=lambda k: make_uid(1, 100 + k))
    write_series(folder, edit=edit)
    return tuple(Truth(replace(AXIAL, at=(float(k),))) for k in range(5))


def one_of_another_class(folder: Path) -> tuple[Truth, ...]:
    write_series(folder, edit=only(2, put(SOPClassUID=MRImageStorage)))
    return (Truth(replace(AXIAL, at=(2.0,))),)


def incomplete(folder: Path) -> tuple[Truth, ...]:
    truths = volumes(lambda v: {"TemporalPositionIdentifier": v + 1})(folder)
    (folder / "slice_007.dcm").unlink()  # slice 2 of volume 1
    return truths[0], truths[2]


def times_by_slice(folder: Path) -> tuple[Truth, ...]:
    """Write three volumes of slices that were measured one after the other."""
    return tuple(
        write_series(
            folder,
            kind="MR",
            ramp=volume_ramp(v),
            first=5 * v,
            edit=put_each(AcquisitionTime=lambda k, v=v: f"10{v:02d}{10 * k:02d}"),
        )
        for v in range(3)
    )


def enhanced_volumes(edit_of: Callable[[int], Callable[[Dataset], None]], count: int = 2) -> Build:
    """Return a builder of one enhanced object with several volumes, frames shuffled."""

    def make(folder: Path) -> tuple[Truth, ...]:
        parts = [Part(k, AXIAL, volume_ramp(v), edit_of(v)) for v in range(count) for k in range(5)]
        order = np.random.default_rng(3).permutation(len(parts))
        write_enhanced(folder / "image", [parts[at] for at in order])
        return tuple(Truth(AXIAL, volume_ramp(v)) for v in range(count))

    return make


def at_time(v: int) -> Callable[[Dataset], None]:
    def edit(item: Dataset) -> None:
        item.FrameContentSequence[0].TemporalPositionIndex = v + 1

    return edit


def with_b_value(v: int) -> Callable[[Dataset], None]:
    def edit(item: Dataset) -> None:
        item.MRDiffusionSequence = one_item(DiffusionBValue=500.0 * v)

    return edit


def of_type(v: int) -> Callable[[Dataset], None]:
    def edit(item: Dataset) -> None:
        kind = ("WATER", "FAT")[v]
        item.MRImageFrameTypeSequence = one_item(FrameType=["DERIVED", "PRIMARY", "DIXON", kind])

    return edit


def two_stacks(folder: Path) -> tuple[Truth, ...]:
    """Write axial and sagittal frames into one enhanced object."""

    def stack(name: str) -> Callable[[Dataset], None]:
        def edit(item: Dataset) -> None:
            item.FrameContentSequence[0].StackID = name

        return edit

    axial = [Part(k, AXIAL, volume_ramp(0), stack("1")) for k in (2, 0, 1, 4, 3)]
    sagittal = [Part(k, SAGITTAL, volume_ramp(1), stack("2")) for k in (4, 2, 0, 1, 3)]
    mixed = [part for pair in zip(axial, sagittal, strict=True) for part in pair]
    write_enhanced(folder / "image", mixed, Object(shared=(MEASURES, RESCALE)))
    return Truth(AXIAL, volume_ramp(0)), Truth(SAGITTAL, volume_ramp(1))


CHOOSE = [
    choose("two_series", several(one(), one(SAGITTAL, series=2, ramp=Ramp(base=1600), name="{folder}/b{k}"))),
    choose(
        "ct_and_pet",
        several(
            one(),
            one(
                replace(AXIAL, pixel_mm=(2.0, 2.5)),
                kind="PT",
                series=2,
                ramp=Ramp(base=1600),
                name="{folder}/b{k}",
            ),
        ),
    ),
    choose("time_points", volumes(lambda v: {"TemporalPositionIdentifier": v + 1})),
    choose("time_points_by_slice", volumes(lambda v: {"TemporalPositionIdentifier": v + 1}, by_slice=True)),
    choose("time_points_by_acquisition_time", volumes(lambda v: {"AcquisitionTime": f"10{v:02d}00"})),
    choose("time_points_by_trigger_time", volumes(lambda v: {"TriggerTime": 40.0 * v + 5})),
    choose(
        "dynamic_pet",
        volumes(lambda v: {"FrameReferenceTime": 60000.0 * v, "ActualFrameDuration": 60000}, kind="PT"),
    ),
    choose("echoes", volumes(lambda v: {"EchoTime": 4.6 * (v + 1), "EchoNumbers": v + 1})),
    choose("b_values", volumes(lambda v: {"DiffusionBValue": 500.0 * v})),
    choose(
        "directions_of_one_b_value",
        volumes(
            lambda v: {
                "DiffusionBValue": 1000.0,
                "DiffusionGradientOrientation": [float(v == 0), float(v == 1), float(v == 2)],
            }
        ),
    ),
    choose("b_values_told_by_instance_number_alone", volumes(lambda v: {})),
    choose("b_values_told_by_instance_number_alone_by_slice", volumes(lambda v: {}, by_slice=True)),
    choose(
        "dixon",
        volumes(lambda v: {"ImageType": ["DERIVED", "PRIMARY", "DIXON", ("WATER", "FAT", "IN_PHASE")[v]]}),
    ),
    choose(
        "magnitude_and_phase",
        volumes(lambda v: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[v], "ND"]}, count=2),
    ),
    choose("flip_angles", volumes(lambda v: {"FlipAngle": 5.0 * (v + 1)}, count=2)),
    choose("inversion_times", volumes(lambda v: {"InversionTime": 300.0 * (v + 1)}, count=2)),
    choose("two_acquisitions", volumes(lambda v: {"AcquisitionNumber": v + 1}, count=2, kind="CT")),
    choose("two_kernels", volumes(lambda v: {"ConvolutionKernel": ("B30f", "B70f")[v]}, count=2, kind="CT")),
    choose("two_energies", volumes(lambda v: {"KVP": (80, 140)[v]}, count=2, kind="CT")),
    choose("phases_of_different_coverage", uneven((0.0, 1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0))),
    choose("phases_that_overlap_in_part", uneven((0.0, 1.0, 2.0, 3.0), (2.0, 3.0, 4.0, 5.0))),
    choose(
        "two_orientations_in_one_series",
        several(one(kind="MR"), one(SAGITTAL, kind="MR", ramp=volume_ramp(1), first=20)),
    ),
    choose("one_slice_of_another_sop_class", one_of_another_class, listed=2),
    choose("series_uid_by_slice", uid_by_slice),
    choose(
        "good_series_and_one_with_a_gap",
        several(
            one(),
            beside_nothing(one(replace(AXIAL, at=(0.0, 1.0, 3.0, 4.0)), series=2, name="{folder}/b{k}")),
        ),
        listed=2,
    ),
    choose("time_points_of_which_one_is_incomplete", incomplete, listed=3),
    choose("time_points_by_times_that_differ_by_slice", times_by_slice),
    choose("corrected_and_not", volumes(lambda v: {"CorrectedImage": (["ATTN"], ["NORM"])[v]}, 2, kind="PT")),
    choose("enhanced_two_stacks", two_stacks),
    choose("enhanced_time_points", enhanced_volumes(at_time, 3)),
    choose("enhanced_b_values", enhanced_volumes(with_b_value, 3)),
    choose("enhanced_dixon", enhanced_volumes(of_type)),
]
