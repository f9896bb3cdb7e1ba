"""Everything below a folder, from headers alone, and the choice of one volume a study."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.core.errors import ConfigError, DataError, FormatError
from medseg.core.geometry import Geometry
from medseg.io.dicom.elements import quiet
from medseg.io.dicom.header import read_instance
from medseg.io.dicom.scan import Candidate, Index, Options, Scan, Series
from medseg.io.dicom.series import Member, build_series
from medseg.io.dicom.tags import name_modality


def find_series(roots: Path | Sequence[Path], options: Options | None = None) -> Index:
    """Read the headers of files, or of all files below folders, once each, and build their series.

    Any name will do; DICOMDIR is ignored, links are followed once, other files are listed. A file that claims
    to be DICOM and cannot be parsed might belong to any series of its folder, so these are refused.
    """
    members: list[Member] = []
    others: list[Path] = []
    damaged: list[tuple[Path, DataError]] = []
    empty: list[Path] = []
    with quiet():
        for path in list_tree([roots] if isinstance(roots, Path) else roots):
            try:
                found = read_instance(path)
            except DataError as error:
                damaged.append((path, error))
                continue
            if found is not None:
                members.append(found)
            elif _may_be_a_slice(path) and _is_blank(path):
                empty.append(path)
            elif path.name.upper() != "DICOMDIR":
                others.append(path)
        homes = {instance.path.parent for instance, _ in members}
        for path in empty:  # between DICOM files, what is left of one
            if path.parent in homes:
                damaged.append((path, _empty()))
            else:
                others.append(path)
        return Index(tuple(_build_all(members, damaged, options or Options())), tuple(others), tuple(damaged))


def _empty() -> FormatError:
    return FormatError("a file among the DICOM files is empty", hint="export it again", code="DICOM_DAMAGED")


def _may_be_a_slice(path: Path) -> bool:
    """Whether an empty file is named as slices are: no ending, or one of digits ("IM0001", "1.2.840.7")."""
    return not path.name.startswith(".") and not path.suffix.strip(".0123456789")


def _is_blank(path: Path) -> bool:
    """Whether a file is empty or starts with nothing but zeros, as broken copies do."""
    with path.open("rb") as stream:
        return not stream.read(132).strip(b"\0")


def list_tree(roots: Sequence[Path]) -> Iterator[Path]:
    """Yield files, and every file below folders, once and sorted; links to what was seen are skipped."""
    seen: set[tuple[int, int]] = set()
    for root in roots:
        tree = [(str(root.parent), [], [root.name])] if root.is_file() else _walk(root, seen)
        for folder, _, names in tree:
            for name in sorted(names):
                path = Path(folder, name)
                try:
                    status = path.stat()
                except OSError:  # a link to nowhere: what it stood for may be missing
                    yield path
                    continue
                if path.is_file() and (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    yield path


def _walk(root: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk sorted, through links too, but into no folder twice."""
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        here = Path(folder).stat()
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders.sort()
        yield folder, folders, names


def _raise(error: OSError) -> None:
    raise error  # what os.walk would skip without a word


def _build_all(
    members: Sequence[Member], damaged: Sequence[tuple[Path, DataError]], options: Options
) -> Iterator[Series]:
    by_uid: dict[tuple[str, bool], list[Member]] = defaultdict(list)
    for member in members:
        # Without a series UID nothing tells what belongs together but the folder and the study.
        key = member[0].series or f"{member[0].path.parent} {member[0].study}"
        by_uid[key, bool(member[0].series)].append(member)
    spoiled = {path.parent: error for path, error in damaged}
    for number, own in enumerate(sorted(by_uid.values(), key=_order), start=1):
        series = replace(build_series(own, options), number=number)
        hits = [spoiled[home] for home in {i.path.parent for i, _ in own} if home in spoiled]
        if hits and series.is_image:
            frames = tuple(frame for candidate in series.candidates for frame in candidate.frames)
            series = replace(series, candidates=(Candidate(None, hits[0], frames),))
        yield _number_volumes(series)


def _order(members: Sequence[Member]) -> tuple[str, str, str]:
    first = members[0][0]
    return first.patient, first.study, str(min(instance.path for instance, _ in members))


def _number_volumes(series: Series) -> Series:
    if len(series.candidates) == 1:
        return series
    most = max(len(candidate.frames) for candidate in series.candidates)
    numbered = []
    for number, candidate in enumerate(series.candidates, start=1):
        scan = candidate.scan
        if scan is not None:
            fewer = ("DICOM_FEWER_IMAGES", f"{len(scan.frames)} slices; another volume has {most}")
            told = (*scan.warnings, fewer) if len(scan.frames) < most else scan.warnings
            scan = replace(scan, volume=number, warnings=told)
        numbered.append(replace(candidate, scan=scan))
    return replace(series, candidates=tuple(numbered))


def group_studies(index: Index) -> list[tuple[Series, ...]]:
    """Return the series of each patient's studies, in the index's order."""
    studies: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for series in index.series:
        studies[series.first.patient, series.first.study].append(series)
    return [tuple(study) for study in studies.values()]


SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
OBLIQUE = 0.9  # cosine of 25 degrees
NOWHERE = {"DICOM_COLOUR", "DICOM_NOT_IMAGE", "DICOM_LOCALIZER"}
"""Errors of series that are no volume at all (screenshots, dose sheets): beside real ones they do not
compete. Any other refused series does: the user may have meant it."""


def choose_scan(study: Sequence[Series], *, series: str | None = None, volume: int | None = None) -> Scan:
    """Return the one volume of a study, or the one that is asked for.

    Args:
        study: Series of one patient and study.
        series: Number as listed by `inspect`, or SeriesInstanceUID.
        volume: Number within the series, from 1.

    Raises:
        ConfigError: SERIES_UNKNOWN or VOLUME_UNKNOWN.
        DataError: SERIES_AMBIGUOUS, with the numbered list; NO_CASES; or why the only series is refused.
    """
    if series is not None:
        chosen = [one for one in study if series in {str(one.number), one.first.series}]
        if not chosen:
            raise ConfigError(
                "there is no such series", hint="`medseg inspect` lists them", code="SERIES_UNKNOWN"
            )
        return _choose_volume(chosen[0], volume)
    contenders = [one for one in study if not is_nowhere(one)]
    if len(contenders) > 1:
        raise ambiguous(contenders)
    if contenders:
        return _choose_volume(contenders[0], volume)
    errors = [c.error for one in study for c in one.candidates if c.error is not None]
    images = [c.error for one in study if one.is_image for c in one.candidates if c.error is not None]
    raise (images or errors)[0]


def is_nowhere(series: Series) -> bool:
    """Whether a series is no volume at all, so that it competes with none."""
    errors = [candidate.error for candidate in series.candidates]
    frames = [frame for candidate in series.candidates for frame in candidate.frames]
    is_picture = len(frames) < 2 or series.first.sop_class.startswith(SECONDARY_CAPTURE)
    is_unplaced = is_picture and not any(frame.position_mm for frame in frames)
    nowhere = NOWHERE | {"DICOM_POSITION"} if is_unplaced else NOWHERE
    return all(error is not None and error.code in nowhere for error in errors)


def _choose_volume(series: Series, volume: int | None) -> Scan:
    candidates = series.candidates
    if volume is not None and not 1 <= volume <= len(candidates):
        raise ConfigError(
            f"series {series.number} holds {len(candidates)} volume{'s' * (len(candidates) > 1)}, "
            f"not {volume}",
            hint="`medseg inspect` lists them",
            code="VOLUME_UNKNOWN",
        )
    if volume is None and len(candidates) > 1:
        raise ambiguous([series])
    chosen = candidates[(volume or 1) - 1]
    if chosen.scan is None:
        assert chosen.error is not None
        raise chosen.error
    return chosen.scan


def ambiguous(contenders: Sequence[Series]) -> DataError:
    """Return the error that lists what can be chosen, in numbers and codes only."""
    lines = [
        f"[{one.number}{f' volume {n}' if len(one.candidates) > 1 else ''}] {describe(one, candidate)}"
        for one in contenders
        for n, candidate in enumerate(one.candidates, start=1)
    ]
    shown = "; ".join(lines[:20]) + (f"; and {len(lines) - 20} more" if len(lines) > 20 else "")
    return DataError(
        f"{len(lines)} volumes could be meant: {shown}",
        hint="choose with --series N" + (" --volume N" if len(contenders) == 1 else "") + ", or by a rule "
        "of the pipeline",
        code="SERIES_AMBIGUOUS",
    )


def describe(series: Series, candidate: Candidate) -> str:
    """Say in a few words what a volume is: modality, grid, slices, what tells it apart."""
    modality = name_modality(series.first.modality) or "?"
    if candidate.scan is None:
        code = candidate.error.code if candidate.error else ""
        return f"{modality}, {len(candidate.frames)} slices, refused ({code})"
    grid = candidate.scan.geometry
    shape = " x ".join(map(str, grid.shape))
    spacing = " x ".join(f"{step:.4g}" for step in grid.spacing_mm)
    label = f", {candidate.scan.label}" if candidate.scan.label else ""
    return f"{modality}, {name_orientation(grid)}, {shape} voxels of {spacing} mm{label}"


def name_orientation(grid: Geometry) -> str:
    """Return how the slices lie: axial, coronal or sagittal, oblique where a slice is turned by over 25°."""
    normal = np.abs(grid.direction[:, 2])
    name = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    return name if normal.max() > OBLIQUE else f"oblique {name}"


def choose_scans(index: Index, *, series: str | None = None, volume: int | None = None) -> list[Scan]:
    """Return one volume for each patient and study; see `choose_scan`.

    With `series`, only the study that holds it.

    Raises:
        DataError: NO_CASES: no DICOM at all; DICOM_DAMAGED: nothing but damaged files.
    """
    studies = group_studies(index)
    if not studies:
        if index.damaged:
            raise index.damaged[0][1]
        raise DataError("no DICOM file was found", hint="check the path", code="NO_CASES")
    if series is not None:
        studies = [s for s in studies if any(series in {str(one.number), one.first.series} for one in s)][:1]
        if not studies:
            raise ConfigError(
                "there is no such series", hint="`medseg inspect` lists them", code="SERIES_UNKNOWN"
            )
    return [choose_scan(study, series=series, volume=volume) for study in studies]


def scan_id(scan: Scan, key: bytes) -> str:
    """Return the pseudonym of a volume: the same for the same series on every run of this site."""
    name = pseudonym(scan.first.study + " " + scan.first.series, key)
    return f"{name}-v{scan.volume}" if scan.volume else name


def pseudonym(text: str, key: bytes) -> str:
    """Return "dcm-" + 12 hex of an HMAC-SHA-256."""
    return "dcm-" + hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:12]
