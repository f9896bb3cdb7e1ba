"""The files of one series: what belongs together, what is refused, which volumes come out.

Every frame is either part of a candidate, left out with a warning (localizers, exact copies, pictures that
lie nowhere), or the reason why the series is refused. None is dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from medseg.core.errors import DataError, FormatError, GeometryError
from medseg.io.dicom.grid import MAX_ORIENTATION_SPREAD, axes_of, check_place, make_geometry, measure
from medseg.io.dicom.header import NOT_IMAGE_CLASSES, NOT_IMAGES
from medseg.io.dicom.scan import Candidate, Frame, Instance, Options, Scan, Series, Warnings
from medseg.io.dicom.suv import suv_factor
from medseg.io.dicom.volumes import Split, split_volumes
from medseg.io.dicom.warn import warn_of

Member = tuple[Instance, tuple[Frame, ...]]
GRAY = {"MONOCHROME1", "MONOCHROME2"}
COLOURS = {"RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420"}
MAX_RESCALE = 1e30  # values beyond do not fit float32
MAX_STACKS = 50  # of one series; a radial acquisition has hundreds and is no volume
LOCALIZER = {"LOCALIZER", "SCOUT", "TOPOGRAM"}


def build_series(members: Sequence[Member], options: Options) -> Series:
    """Return a series with its volumes or the reason why there is none; `number` is set by the caller."""
    instances = tuple(instance for instance, _ in members)
    images = [member for member in members if is_image(member[0])]
    if not images:
        error = _not_an_image(instances[0])
        return Series(0, instances, (Candidate(None, error, ()),), is_image=False)
    localizers = [member for member in images if LOCALIZER & set(member[0].image_type)]
    if len(localizers) == len(images):
        frames = tuple(frame for _, own in images for frame in own)
        error = FormatError(
            f"a localizer of {len(frames)} pictures, made to plan the scan",
            hint="choose another series",
            code="DICOM_LOCALIZER",
        )
        return Series(0, instances, (Candidate(None, error, frames),), is_localizer=True)
    kept = [member for member in images if member not in localizers]
    frames = tuple(frame for _, own in kept for frame in own)
    left_out = [] if not localizers else [_left_out(len(localizers), "localizer")]
    try:
        _check_whole(kept)
        candidates = tuple(_find_candidates(kept, tuple(left_out), options))
    except DataError as error:
        candidates = (Candidate(None, error, frames),)
    return Series(0, instances, candidates)


def is_image(instance: Instance) -> bool:
    """Whether a file claims to hold an intensity image: pixels, or the header of some that are lost."""
    if instance.modality in NOT_IMAGES or instance.sop_class.startswith(NOT_IMAGE_CLASSES):
        return False
    return instance.pixels is not None or instance.error is not None


def _not_an_image(first: Instance) -> FormatError:
    kind = first.modality if first.modality in NOT_IMAGES else "an object without pixels"
    return FormatError(
        f"the series holds no image but {kind}",
        hint="give the series it was made from; structures and segmentations are read as labels",
        code="DICOM_NOT_IMAGE",
    )


def _left_out(count: int, what: str) -> tuple[str, str]:
    return "DICOM_LEFT_OUT", f"{count} {what} image{'s' * (count > 1)} of the series left out"


def _check_whole(members: Sequence[Member]) -> None:
    """Refuse what would make any volume of the series doubtful."""
    for instance, _ in members:
        if instance.error is not None:
            raise instance.error
    instances = [instance for instance, _ in members]
    if len(patients := {instance.patient for instance in instances}) > 1:
        raise FormatError(
            f"one series holds slices of {len(patients)} patients",
            hint="separate them; medseg never mixes patients",
            code="DICOM_MIXED_PATIENTS",
        )
    if len({instance.study for instance in instances}) > 1 or not instances[0].series:
        raise FormatError(
            "the files of a series name several studies, or no series",
            hint="export the study again, or repair its UIDs",
            code="DICOM_MIXED_STUDIES",
        )
    layouts = [instance.pixels for instance in instances if instance.pixels]
    if colours := {p.photometric for p in layouts if p.photometric not in GRAY or p.samples > 1}:
        names = ", ".join(sorted(colours & COLOURS)) or "unknown colour space"
        raise FormatError(
            f"colour pixels ({names}) where an intensity image is needed",
            hint="choose the series that this picture was made from",
            code="DICOM_COLOUR",
        )
    if len({p.photometric for p in layouts}) > 1:
        raise FormatError(
            "MONOCHROME1 and MONOCHROME2 slices are mixed in one series",
            hint="export it again in one polarity",
            code="DICOM_MIXED_PIXELS",
        )


def _find_candidates(members: Sequence[Member], left_out: Warnings, options: Options) -> Iterator[Candidate]:
    """Yield the volumes of the series' SOP classes; pictures that lie nowhere go out beside real slices."""
    kinds: dict[str, list[Frame]] = {}
    for instance, frames in members:
        kinds.setdefault(instance.sop_class, []).extend(frames)
    placed = {kind: frames for kind, frames in kinds.items() if any(f.position_mm for f in frames)}
    if placed and (stray := [frame for kind in kinds if kind not in placed for frame in kinds[kind]]):
        left_out = (*left_out, _left_out(len(stray), "unplaced"))
    for own in (placed or kinds).values():
        yield from _find_in_kind(own, left_out, options)


def _find_in_kind(frames: list[Frame], left_out: Warnings, options: Options) -> Iterator[Candidate]:
    for frame in frames:
        check_place(frame)
        _check_values(frame)
    if len({frame.is_rescaled for frame in frames}) > 1:
        raise FormatError(
            "some slices of the series have RescaleSlope and RescaleIntercept, and others have not",
            hint="export the series again",
            code="DICOM_RESCALE",
        )
    references = {frame.frame_of_reference for frame in frames} - {""}
    if len(references) > 1:
        raise GeometryError(
            f"slices of one series lie in {len(references)} frames of reference",
            hint="export the series again; their positions cannot be compared",
            code="DICOM_MIXED_FRAMES",
        )
    for parallel in _split_orientations(frames):
        _check_size(parallel)
        splits, copies = split_volumes(parallel)
        warnings = left_out
        if copies:
            warnings = (*warnings, ("DICOM_DUPLICATE", f"exact copies of slices left out: {copies}"))
        for split in splits:
            yield _make_candidate(split, warnings, options)


def _check_values(frame: Frame) -> None:
    is_known = np.isfinite([frame.slope, frame.intercept]).all()
    if is_known and not frame.is_rescaled and (frame.slope, frame.intercept) != (1, 0):
        raise FormatError(
            f"RescaleSlope {frame.slope:g}, RescaleIntercept {frame.intercept:g}: one of them is not there",
            hint="export the series again; they belong together",
            code="DICOM_RESCALE",
        )
    if frame.slope == 0 or not is_known or max(abs(frame.slope), abs(frame.intercept)) > MAX_RESCALE:
        raise FormatError(
            f"RescaleSlope {frame.slope:g} and RescaleIntercept {frame.intercept:g} give no values",
            hint="export the series again",
            code="DICOM_RESCALE",
        )
    if "lut" in frame.instance.facts:
        raise FormatError(
            "stored values become intensities by a look-up table",
            hint="export the series with a linear rescale",
            code="DICOM_LUT",
        )


def _split_orientations(frames: list[Frame]) -> list[list[Frame]]:
    """Return stacks of parallel slices.

    Raises:
        GeometryError: DICOM_MIXED_ORIENTATION, unless every stack has enough slices to be a volume and
            directions that are plainly its own.
    """
    stacks: list[list[Frame]] = []
    keys: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    for frame in frames:
        cosines = np.array(frame.orientation)
        for stack, key in zip(stacks, keys, strict=True):
            if np.abs(cosines - key).max() <= MAX_ORIENTATION_SPREAD:
                stack.append(frame)
                break
        else:
            stacks.append([frame])
            keys.append(cosines)
        if len(stacks) > MAX_STACKS:
            raise _mixed_orientation(frames, stacks)
    normals = [axes_of(stack[0])[2] for stack in stacks]
    nearest = max((abs(float(a @ b)) for n, a in enumerate(normals) for b in normals[:n]), default=0.0)
    if len(stacks) > 1 and (min(map(len, stacks)) < 3 or nearest > 0.99):
        raise _mixed_orientation(frames, stacks)
    return stacks


def _mixed_orientation(frames: Sequence[Frame], stacks: Sequence[Sequence[Frame]]) -> GeometryError:
    return GeometryError(
        f"{len(frames)} slices lie in {len(stacks)} or more orientations, the smallest stack holds "
        f"{min(map(len, stacks))}",
        hint="export each orientation as its own series",
        code="DICOM_MIXED_ORIENTATION",
    )


def _check_size(frames: Sequence[Frame]) -> None:
    sizes = {(p.rows, p.columns) for frame in frames if (p := frame.instance.pixels)}
    spacings = np.array([frame.spacing_mm for frame in frames])
    spread = float((np.ptp(spacings, axis=0) / spacings.min(axis=0)).max())
    if len(sizes) > 1 or spread > 1e-3:
        texts = " and ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
        raise GeometryError(
            f"slices of one series differ in size: {texts} pixels, spacing {spacings.min():.4g} to "
            f"{spacings.max():.4g} mm",
            hint="export the series again; slices of different volumes were mixed",
            code="DICOM_MIXED_SIZE",
        )


def _make_candidate(split: Split, warnings: Warnings, options: Options) -> Candidate:
    frames = tuple(split.frames)
    try:
        stack = measure(frames)
        geometry, repair, said = make_geometry(stack, options)
        factor, noted = suv_factor(frames[0].instance) if options.suv else (1.0, ())
    except DataError as error:
        return Candidate(None, error, frames)
    scan = Scan(stack.frames, geometry, repair, factor, label=split.label)
    told = (*warnings, *said, *noted, *warn_of(scan))
    return Candidate(replace(scan, warnings=told), None, stack.frames)
