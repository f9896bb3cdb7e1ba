"""Tell the volumes of one series apart: time points, echoes, b-values, reconstructions.

A volume holds one slice at each position. Where positions repeat, header values that differ there (echo
time, time point, ...) must sort the slices into volumes without a rest; exact copies are dropped; what then
still lies twice at one place is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from medseg.core.errors import GeometryError
from medseg.io.dicom.grid import axes_of
from medseg.io.dicom.pixels.decode import decode_frames
from medseg.io.dicom.scan import Frame

PROTOCOL = ("StackID", "EchoTime", "InversionTime", "DiffusionBValue", "ConvolutionKernel", "KVP")
STEADY = (*PROTOCOL, "FlipAngle", "TemporalPositionIdentifier", "ImageType")
SAME_PLACE = 0.01  # of the smaller pixel spacing: positions that differ by less are one


class Split(NamedTuple):
    """Slices of one volume, and what tells it apart ("" where it is alone)."""

    frames: list[Frame]
    label: str = ""


def split_volumes(frames: Sequence[Frame]) -> tuple[list[Split], int]:
    """Return the volumes that parallel slices make up, and how many exact copies were dropped.

    Args:
        frames: Slices of one orientation and pixel grid; their places have been checked.

    Raises:
        GeometryError: DICOM_OVERLAP.
    """
    found, dropped = _drop_copies(list(frames), key=lambda frame: (frame.instance.sop_instance, frame.index))
    if splits := _split_by_protocol(found):
        return splits, dropped
    if not _repeats(found):
        return [Split(found)], dropped
    if splits := _split_by_traits(found):
        return splits, dropped
    found, more = _drop_copies(found, key=_place_key(found))
    dropped += more
    if not _repeats(found):
        return [Split(found)], dropped
    if splits := _split_by_traits(found) or _split_by_number(found):
        return splits, dropped
    raise _overlap(found)


def places(frames: Sequence[Frame]) -> list[int]:
    """Return for each frame the number of its position along the normal, ascending from 0."""
    distances = np.array([frame.position_mm for frame in frames]) @ axes_of(frames[0])[2]
    spacing = frames[0].spacing_mm
    assert spacing is not None
    order = np.argsort(distances, kind="stable")
    new = np.diff(distances[order], prepend=distances[order[0]]) > SAME_PLACE * min(spacing)
    numbers = np.empty(len(frames), int)
    numbers[order] = np.cumsum(new)
    return [int(place) for place in numbers]


def _repeats(frames: Sequence[Frame]) -> bool:
    found = places(frames)
    return len(set(found)) < len(found)


def _place_key(frames: Sequence[Frame]) -> Callable[[Frame], object]:
    place_of = {id(frame): place for frame, place in zip(frames, places(frames), strict=True)}
    return lambda frame: place_of[id(frame)]


def _drop_copies(frames: list[Frame], key: Callable[[Frame], object]) -> tuple[list[Frame], int]:
    """Drop frames that share a key, a place and every pixel with an earlier one."""
    by_key: dict[object, list[Frame]] = defaultdict(list)
    for frame in frames:
        by_key[key(frame)].append(frame)
    if len(by_key) == len(frames):
        return frames, 0
    doubtful = [frame for group in by_key.values() if len(group) > 1 for frame in group]
    digests = {
        id(frame): (stored.dtype.str, hashlib.sha256(stored.tobytes()).digest())
        for frame, stored in zip(doubtful, decode_frames(doubtful), strict=True)
    }
    seen: dict[tuple[object, ...], Frame] = {}
    for frame in frames:
        where = (frame.position_mm, frame.orientation, frame.slope, frame.intercept)
        seen.setdefault((key(frame), where, digests.get(id(frame))), frame)
    return list(seen.values()), len(frames) - len(seen)


def _split_by_protocol(frames: Sequence[Frame]) -> list[Split]:
    """Part slices that one acquisition never mixes, even where their positions do not repeat.

    Two stacks whose slices lie between each other would otherwise pass as one volume of half the step.
    """
    volumes: dict[tuple[str, ...], list[Frame]] = defaultdict(list)
    traits = [dict(frame.traits) for frame in frames]
    names = [name for name in PROTOCOL if all(name in trait for trait in traits)]
    for frame, trait in zip(frames, traits, strict=True):
        volumes[tuple(trait[name] for name in names)].append(frame)
    if len(volumes) < 2 or min(map(len, volumes.values())) < 2 or any(map(_repeats, volumes.values())):
        return []
    telling = [n for n, name in enumerate(names) if len({key[n] for key in volumes}) > 1]
    return [
        Split(volumes[key], _describe([names[n] for n in telling], [key[n] for n in telling]))
        for key in sorted(volumes, key=_natural)
    ]


def _split_by_traits(frames: Sequence[Frame]) -> list[Split]:
    """Sort by the header values that differ within positions, or return nothing if they do not suffice."""
    where = places(frames)
    deepest = max(where.count(place) for place in set(where))
    traits = [dict(frame.traits) for frame in frames]
    telling: list[str] = []
    for name in dict.fromkeys(name for trait in traits for name in trait):
        values = [trait.get(name, "") for trait in traits]
        per_place = len({(place, value) for place, value in zip(where, values)})
        # A value of its own for nearly every slice (an acquisition time) tells slices apart, not volumes.
        if per_place > len(set(where)) and len(set(values)) <= 2 * deepest:
            telling.append(name)
    for count in range(1, len(telling) + 1):
        for names in ([telling[count - 1]], telling[:count]):
            if splits := _sort(frames, where, [[trait.get(name, "") for name in names] for trait in traits]):
                return [Split(part, _describe(names, key)) for part, key in splits]
    return []


def _sort(
    frames: Sequence[Frame], where: Sequence[int], keys: Sequence[list[str]]
) -> list[tuple[list[Frame], list[str]]]:
    """Return the volumes that keys make, if each holds a position once and at least two positions."""
    volumes: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        volumes[tuple(key)].append(index)
    positions = len(set(where))
    for members in volumes.values():
        held = [where[index] for index in members]
        if len(set(held)) < len(held) or len(held) < min(2, positions):
            return []
    if len(volumes) < 2:
        return []
    return [([frames[index] for index in volumes[key]], list(key)) for key in sorted(volumes, key=_natural)]


def _natural(key: tuple[str, ...]) -> list[tuple[float, str]]:
    """Sort numbers by value and the rest by text."""
    return [(_float(part), part) for part in key]


def _float(text: str) -> float:
    try:
        return float(text.split("\\")[0])
    except ValueError:
        return float("inf")


def _split_by_number(frames: Sequence[Frame]) -> list[Split]:
    """Sort by instance number, where every run of as many slices as there are positions is a whole volume.

    Scanners number a time series volume by volume or position by position. Which of the two holds is told
    by the numbers; a series that fits neither is not sorted.
    """
    where = places(frames)
    positions = len(set(where))
    numbers = [frame.number for frame in frames]
    if None in numbers or -1 in numbers or len(set(numbers)) < len(numbers) or len(frames) % positions:
        return []
    order = sorted(range(len(frames)), key=lambda index: numbers[index] or 0)
    count = len(frames) // positions
    runs = [order[start : start + positions] for start in range(0, len(order), positions)]
    if not all(len({where[index] for index in run}) == positions for run in runs):
        runs = [order[start::count] for start in range(count)]
        blocks = [order[start : start + count] for start in range(0, len(order), count)]
        if not all(len({where[index] for index in block}) == 1 for block in blocks):
            return []
    steps = {tuple((numbers[index] or 0) - (numbers[run[0]] or 0) for index in run) for run in runs}
    if len(steps) > 1 or not _are_alike([[dict(frames[index].traits) for index in run] for run in runs]):
        return []
    return [
        Split([frames[index] for index in run], f"instance numbers from {numbers[run[0]]}") for run in runs
    ]


def _are_alike(runs: Sequence[Sequence[dict[str, str]]]) -> bool:
    """Whether no run mixes values of a trait that another has one of: files of two volumes may be gone."""
    for name in STEADY:
        mixed = {len({trait.get(name, "") for trait in run}) > 1 for run in runs}
        if len(mixed) > 1:
            return False
    return True


_IMAGE_TYPES = (
    "ORIGINAL DERIVED PRIMARY SECONDARY AXIAL CORONAL SAGITTAL MPR REFORMATTED M P R I MAGNITUDE PHASE "
    "REAL IMAGINARY WATER FAT IN_PHASE OUT_PHASE OPP_PHASE ADC FA TRACEW DIFFUSION PERFUSION "
    "MOVING_AVERAGE MIP MINIP PROJECTION AVERAGE SUBTRACTION MEAN MONO_ENERGY VIRTUAL_NON_CONTRAST "
    "IODINE T1 T2 T2_STAR R2 R2_STAR ND NORM DIS2D DIS3D NONE OTHER "
)
IMAGE_TYPES = frozenset(_IMAGE_TYPES.split())
"""Words of ImageType that are shown; others are free text for all that is known."""

NAMES = {
    "AcquisitionNumber": "acquisition",
    "TemporalPositionIdentifier": "time point",
    "TemporalPositionIndex": "time point",
    "StackID": "stack",
    "EchoTime": "echo time",
    "EchoNumbers": "echo",
    "InversionTime": "inversion time",
    "FlipAngle": "flip angle",
    "DiffusionBValue": "b",
    "TriggerTime": "trigger time",
    "FrameReferenceTime": "frame time",
    "KVP": "kV",
}


def _describe(names: Sequence[str], key: Sequence[str]) -> str:
    """Say what tells a volume apart, in numbers and code strings only: other text may name a patient."""
    parts = []
    for name, value in zip(names, key, strict=True):
        first = re.match(r"[0-9]{1,12}", value)
        if name.startswith("b_value") and first:  # GE adds 1e9 to some
            parts.append(f"b {int(first.group()) % 1_000_000_000}")
            continue
        limit = 4 if name == "StackID" else 16
        if re.fullmatch(rf"[-+0-9.eE]{{1,{limit}}}", value) and "Time" not in name.replace("EchoTime", ""):
            parts.append(f"{NAMES.get(name, name)} {value}")
        elif name == "ImageType" and (words := [w for w in value.upper().split("\\") if w in IMAGE_TYPES]):
            parts.append("/".join(words))
        elif name in NAMES and re.fullmatch(r"[0-9.]{1,12}", value):
            parts.append(f"{NAMES[name]} {value}")
    return ", ".join(parts)


def _overlap(frames: Sequence[Frame]) -> GeometryError:
    where = places(frames)
    normal = axes_of(frames[0])[2]
    twice = sorted({place for place in where if where.count(place) > 1})
    at = float(np.array(frames[where.index(twice[0])].position_mm) @ normal)
    return GeometryError(
        f"{len(twice)} of {len(set(where))} positions hold several slices with different pixels, the first "
        f"at {at:.4g} mm along the normal",
        hint="export the series again; nothing in the headers tells these slices apart",
        code="DICOM_OVERLAP",
    )
