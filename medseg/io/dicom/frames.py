"""The frames of one file: a single slice, or the functional groups of an enhanced multi-frame object.

PS3.3 C.7.6.16: what a frame says itself wins over what all frames share.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping

from pydicom.dataset import Dataset

from medseg.core.errors import FormatError
from medseg.io.dicom.scan import Frame, Instance
from medseg.io.dicom.tags import (
    MOSAIC_CREATOR,
    MOSAIC_TILES,
    PRIVATE_TRAITS,
    TRAITS,
    integer,
    number,
    numbers,
    text,
)

GROUPS = {
    "ImagePositionPatient": ("PlanePositionSequence",),
    "ImageOrientationPatient": ("PlaneOrientationSequence",),
    "PixelSpacing": ("PixelMeasuresSequence",),
    "SliceThickness": ("PixelMeasuresSequence",),
    "RescaleSlope": ("PixelValueTransformationSequence",),
    "RescaleIntercept": ("PixelValueTransformationSequence",),
    "StackID": ("FrameContentSequence",),
    "TemporalPositionIndex": ("FrameContentSequence",),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "DiffusionBValue": ("MRDiffusionSequence",),
    "ImageType": ("", "FrameType"),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence",),
    "ComplexImageComponent": ("",),
}
"""Attribute -> the functional group that holds it, and its name there where that differs."""

FRAME_TYPES = (
    "CTImageFrameTypeSequence",
    "MRImageFrameTypeSequence",
    "PETFrameTypeSequence",
)

NOTHING = Dataset()


def read_frames(instance: Instance, header: Dataset) -> tuple[Frame, ...]:
    """Return the frames of a file in stored order.

    Raises:
        FormatError: DICOM_MOSAIC, or DICOM_HEADER where the per-frame groups do not match the frames.
    """
    tiles = text(header, MOSAIC_TILES) if "SIEMENS" in text(header, MOSAIC_CREATOR).upper() else ""
    if "MOSAIC" in instance.image_type or tiles:
        raise FormatError(
            "a mosaic holds all slices of a volume as tiles of one picture; they say nowhere how they lie",
            hint="export it as enhanced multi-frame, or convert it with the vendor's tool",
            code="DICOM_MOSAIC",
        )
    assert instance.pixels is not None
    count = instance.pixels.frames
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    if count == 1 and not per_frame:
        return (_frame(instance, _Values(header, {}, ()), 0),)
    if len(per_frame) != count:
        if not per_frame:
            return tuple(_unplaced(instance, header, index) for index in range(min(count, 1)))
        raise FormatError(
            f"{count} frames, but functional groups for {len(per_frame)}",
            hint="export the series again",
            code="DICOM_HEADER",
        )
    shared = _flatten(next(iter(header.get("SharedFunctionalGroupsSequence") or []), None))
    groups = [shared | _flatten(own) for own in per_frame]
    grouped = {attribute for own in groups for attribute in own}
    return tuple(_frame(instance, _Values(header, own, grouped), index) for index, own in enumerate(groups))


def _unplaced(instance: Instance, header: Dataset, index: int) -> Frame:
    """Return a frame of an old multi-frame object, whose header positions only the first."""
    return Frame(instance, index, None, None, None, None, 1.0, 0.0, text(header, "FrameOfReferenceUID"), None)


def _flatten(groups: Dataset | None) -> dict[str, Dataset]:
    """Return, for each attribute of GROUPS that is there, the item that holds it."""
    found: dict[str, Dataset] = {}
    if groups is None:
        return found
    for attribute, (sequence, *_) in GROUPS.items():
        for keyword in (sequence,) if sequence else FRAME_TYPES:
            if items := groups.get(keyword):
                found[attribute] = items[0]
    return found


class _Values:
    """Values of one frame: from its groups, else from the file's top level."""

    def __init__(self, header: Dataset, groups: Mapping[str, Dataset], grouped: Container[str]) -> None:
        self.header, self.groups, self.grouped = header, groups, grouped

    def find(self, attribute: str) -> tuple[Dataset, str]:
        if item := self.groups.get(attribute):
            own = GROUPS[attribute][-1] if len(GROUPS[attribute]) > 1 else attribute
            if own in item:
                return item, own
        # What other frames keep in their groups, the top level does not say of this one.
        return (NOTHING if attribute in self.grouped else self.header), attribute

    def numbers(self, attribute: str) -> tuple[float, ...] | None:
        return numbers(*self.find(attribute))

    def number(self, attribute: str) -> float | None:
        return number(*self.find(attribute))

    def scaling(self, attribute: str) -> float | None:
        """Return None where the attribute is absent, NaN where it is there without a single value."""
        holder, name = self.find(attribute)
        found = numbers(holder, name)
        if found is None:
            return math.nan if name in holder else None
        return found[0] if len(found) == 1 else math.nan


def _frame(instance: Instance, values: _Values, index: int) -> Frame:
    header = values.header
    slope, intercept = values.scaling("RescaleSlope"), values.scaling("RescaleIntercept")
    spacing, position = values.numbers("PixelSpacing"), values.numbers("ImagePositionPatient")
    return Frame(
        instance=instance,
        index=index,
        position_mm=_triple(position),
        orientation=_sized(values.numbers("ImageOrientationPatient"), 6),
        spacing_mm=_pair(spacing),
        thickness_mm=values.number("SliceThickness"),
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        is_rescaled=slope is not None and intercept is not None,
        frame_of_reference=text(header, "FrameOfReferenceUID"),
        number=index if values.groups else integer(header, "InstanceNumber", -1),
        traits=tuple(_traits(values, instance)),
    )


def _sized(values: tuple[float, ...] | None, count: int) -> tuple[float, ...] | None:
    """Return the values; NaNs where there are too few or too many of them."""
    return values if values is None or len(values) == count else (math.nan,) * count


def _triple(values: tuple[float, ...] | None) -> tuple[float, float, float] | None:
    sized = _sized(values, 3)
    return None if sized is None else (sized[0], sized[1], sized[2])


def _pair(values: tuple[float, ...] | None) -> tuple[float, float] | None:
    sized = _sized(values, 2)
    return None if sized is None else (sized[0], sized[1])


def _traits(values: _Values, instance: Instance) -> Iterator[tuple[str, str]]:
    for keyword in TRAITS:
        if found := text(*values.find(keyword)):
            yield keyword, "\\".join(map(_canonical, found.split("\\")))
    direction = _direction(values)
    if direction:
        yield "DiffusionGradientOrientation", direction
    for name, tag in PRIVATE_TRAITS.items():
        if found := text(values.header, tag):
            yield name, found
    if instance.pixels is not None and instance.pixels.frames > 1:
        yield "Instance", instance.sop_instance


def _canonical(value: str) -> str:
    """Return a number in one way of writing it: "5.0" and "5.00" are one echo time."""
    try:
        return f"{float(value):.9g}"
    except ValueError:
        return value


def _direction(values: _Values) -> str:
    """Return the gradient direction of an enhanced MR frame, which lies one sequence deeper."""
    item = values.groups.get("DiffusionBValue")
    inner = item.get("DiffusionGradientDirectionSequence") if item is not None else None
    return text(inner[0], "DiffusionGradientOrientation") if inner else ""
