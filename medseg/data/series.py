"""Which series of a DICOM study is a channel: a pipeline's rule picks, and nothing is guessed.

A volume that was refused competes with the others: it may be the one that was meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from medseg.core.errors import DataError
from medseg.data.settings import Data, SeriesRule

if TYPE_CHECKING:
    from medseg.io.dicom.scan import Candidate, Scan, Series

PLANES = ("sagittal", "coronal", "axial")  # by the world axis that slices are stacked along


class Fit(NamedTuple):
    """A volume, or the reason why there is none, that a rule lets pass."""

    series: Series
    candidate: Candidate


def list_fits(study: Sequence[Series], rule: SeriesRule, volume: int | None = None) -> list[Fit]:
    """Return what may be a channel: all that its rule does not exclude, refused volumes too.

    Where nothing may be, and the rule excludes nothing, it is what there is: its error tells why.

    Args:
        study: Series of one patient and study.
        rule: The channel's.
        volume: Number within a series; None lets all pass.
    """
    from medseg.io.dicom.index import is_nowhere

    images = [series for series in study if series.is_image]
    placed = [series for series in images if not series.is_localizer and not is_nowhere(series)]
    return [
        Fit(series, candidate)
        for series in placed or (images if rule.is_open else [])
        for number, candidate in enumerate(series.candidates, start=1)
        if volume in {None, number} and _fits(series, candidate, rule)
    ]


def _fits(series: Series, candidate: Candidate, rule: SeriesRule) -> bool:
    first = candidate.frames[0].instance if candidate.frames else series.first
    words = {word.upper() for word in first.image_type}
    slices = len(candidate.frames) if candidate.scan is None else candidate.scan.geometry.shape[2]
    if rule.modality and first.modality != rule.modality.upper():
        return False
    if {word.upper() for word in rule.image_type} - words or {w.upper() for w in rule.not_image_type} & words:
        return False
    if slices < rule.min_slices or (rule.max_slices and slices > rule.max_slices):
        return False
    if candidate.scan is None:
        return True  # refused: the rest is not known
    plane = PLANES[candidate.scan.geometry.axes[2][0]]
    return rule.orientation in {None, plane} and fnmatchcase(candidate.scan.label, rule.volume)


def settle(fits: Sequence[Sequence[Fit]], settings: Data) -> tuple[Scan, ...]:
    """Return the one scan of each channel.

    Args:
        fits: For each channel what may be it.
        settings: Whose channels.

    Raises:
        DataError: CHANNEL_MISSING, CHANNEL_AMBIGUOUS, SERIES_AMBIGUOUS, DICOM_SUV, or why the only volume
            that fits is refused.
    """
    channels = settings.channels.items()
    scans = [
        settle_one(own, name, channel.series) for own, (name, channel) in zip(fits, channels, strict=True)
    ]
    return require_distinct(scans)


def settle_one(fits: Sequence[Fit], name: str, rule: SeriesRule) -> Scan:
    """Return the one scan of channel `name`; see `settle`."""
    from medseg.io.dicom.index import ambiguous

    if len(fits) > 1:
        raise ambiguous(list({fit.series.number: fit.series for fit in fits}.values()))
    scan = fits[0].candidate.scan if fits else None
    if scan is None:
        raise (fits and fits[0].candidate.error) or DataError(
            f"no DICOM series of the study fits channel {name}",
            hint="`medseg inspect` lists them; see data.channels.<name>.series",
            code="CHANNEL_MISSING",
        )
    return convert_units(scan, rule)


def require_distinct(scans: Sequence[Scan]) -> tuple[Scan, ...]:
    """Return the scans, which are all different.

    Raises:
        DataError: CHANNEL_AMBIGUOUS.
    """
    if len({(scan.first.series, scan.volume) for scan in scans}) < len(scans):
        raise DataError(
            "one DICOM series fits several channels",
            hint="set data.channels.<name>.series so that each channel has its own",
            code="CHANNEL_AMBIGUOUS",
        )
    return tuple(scans)


def convert_units(scan: Scan, rule: SeriesRule) -> Scan:
    """Return a PET scan that reads as SUV where the rule asks for it.

    Raises:
        DataError: DICOM_SUV.
    """
    if not rule.suv:
        return scan
    from medseg.io.dicom.suv import suv_factor

    factor, warnings = suv_factor(scan.first)
    return replace(scan, suv_factor=factor, warnings=(*scan.warnings, *warnings))
