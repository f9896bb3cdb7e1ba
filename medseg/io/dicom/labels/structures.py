"""Which contoured structure or segment becomes which label, and what a label object says it belongs to.

A mapping is written by the user, once for a whole cohort: a key is a pattern for names (`*`, `?`, `[...]` as
in file names; upper and lower case are the same) or "#4" for the number, and must fit exactly one structure
of every patient. Several keys may give one value: their structures are united. A key that starts with "?"
may find nothing, for what not every patient has; that something is found at all is required anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from medseg.core.errors import ConfigError, DataError
from medseg.io.dicom.scan import Scan

Structures = Sequence[tuple[int, str]]  # number and name


def match(structures: Structures, wanted: Mapping[str, int], labels: Mapping[int, str]) -> dict[int, int]:
    """Return the label value of every structure that is wanted, in the order of the mapping.

    Args:
        structures: All that the object holds.
        wanted: Key -> label value; empty: structures are called as the labels are.
        labels: Label value -> name; 0 is background.

    Raises:
        DataError: LABEL_ROI: none or several structures fit; the message has numbers only, since names are
            free text.
        ConfigError: LABEL_INVALID: a value below 1, or nothing asked for.
    """
    numbers = [number for number, _ in structures]
    if len(set(numbers)) < len(numbers):
        raise DataError(
            "two structures have the same number", hint="export the structures again", code="LABEL_ROI"
        )
    fits = _find_wanted(structures, wanted) if wanted else _find_named(structures, labels)
    chosen: dict[int, int] = {}
    for value, found in fits:
        number = _choose(found, len(structures), value)
        if chosen.setdefault(number, value) != value:
            raise DataError(
                f"structure #{number} is wanted as label {chosen[number]} and as label {value}",
                hint='tell them apart by number: "#4"',
                code="LABEL_ROI",
            )
    if not chosen:
        raise _refuse([], len(structures), "all labels")
    return chosen


Fits = list[tuple[int, list[int]]]
"""Label value, and the numbers of the structures that fit it."""


def _find_wanted(structures: Structures, wanted: Mapping[str, int]) -> Fits:
    """Return what fits every key; a key for what may be missing is left out where it is."""
    if (least := min(wanted.values())) < 1:
        raise ConfigError(
            f"a structure cannot become label {least}", hint="labels start at 1", code="LABEL_INVALID"
        )
    fits = [(key, value, _find(structures, key.removeprefix("?"))) for key, value in wanted.items()]
    return [(value, found) for key, value, found in fits if found or not key.startswith("?")]


def _find_named(structures: Structures, labels: Mapping[int, str]) -> Fits:
    """Return what is called as the labels are."""
    fits = [(value, _called(structures, name)) for value, name in labels.items() if value > 0]
    if not fits:
        raise ConfigError("no structure is asked for", hint="map names to labels", code="LABEL_INVALID")
    return fits


def match_segments(
    segments: Structures, wanted: Mapping[str, int], labels: Mapping[int, str]
) -> dict[int, int]:
    """Return the label value of every segment that is wanted: as `match`, and by number.

    Without a mapping, segments are taken by name where every label's name is there once, else by number:
    segment 2 is label 2, unless a name says otherwise.

    Raises:
        DataError: LABEL_ROI.
    """
    values = [value for value in labels if value > 0]
    if wanted or all(len(_called(segments, labels[value])) == 1 for value in values):
        return match(segments, wanted, labels)
    for number, name in segments:
        named = [value for value in values if _fold(labels[value]) == _fold(name)]
        if named and number not in named:
            raise DataError(
                f"segment #{number} has the name of label {named[0]}",
                hint='say which is which: {"#1": 2, "#2": 1}',
                code="LABEL_ROI",
            )
    return match(segments, {f"#{value}": value for value in values}, labels)


def _fold(name: str) -> str:
    return name.strip().casefold()


def _called(structures: Structures, name: str) -> list[int]:
    return [number for number, own in structures if _fold(own) == _fold(name)]


def _find(structures: Structures, key: str) -> list[int]:
    if key.startswith("#"):
        return [number for number, _ in structures if str(number) == key[1:].strip()]
    return [number for number, name in structures if fnmatchcase(_fold(name), _fold(key))]


def _choose(found: Sequence[int], count: int, value: int) -> int:
    if len(found) != 1:
        raise _refuse(found, count, f"label {value}")
    return found[0]


def _refuse(found: Sequence[int], count: int, what: str) -> DataError:
    numbers = f" ({' '.join(f'#{number}' for number in found[:20])})" if found else ""
    return DataError(
        f"{what}: {len(found)} of {count} structures fit{numbers}, it takes one",
        hint='`medseg inspect` lists numbers and names; map them by name, or by number as in "#4"',
        code="LABEL_ROI",
    )


def check_reference(scan: Scan, frames_of_reference: Collection[str], series: Collection[str]) -> None:
    """Refuse a label object that belongs to another series or lies in another space than the scan.

    One of the two has to be comparable; what either side leaves out is not compared. Which instances the
    object lists does not matter: a series that was cropped or sent anew has new ones at the same positions.

    Args:
        scan: The image.
        frames_of_reference: UIDs that the object's coordinates refer to.
        series: UIDs of the series it says it was drawn on.

    Raises:
        DataError: LABEL_REFERENCE.
    """
    own_space, own_series = scan.frames[0].frame_of_reference, scan.first.series
    spaces, sources = {uid for uid in frames_of_reference if uid}, {uid for uid in series if uid}
    if own_space and spaces and spaces != {own_space}:
        problem = "lies in another frame of reference"
    elif own_series and sources and own_series not in sources:
        problem = "was drawn on another series"
    elif not (own_space and spaces) and not (own_series and sources):
        problem = "says neither which series nor which space it belongs to"
    else:
        return
    raise DataError(
        f"the label object {problem}; medseg does not guess that it fits",
        hint="choose the series it was drawn on with --series, or pair them by hand",
        code="LABEL_REFERENCE",
    )
