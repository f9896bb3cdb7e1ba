"""DICOM files as cases: a case for each patient and study, its channels' scans, and its RTSTRUCT or SEG.

A folder is indexed once, from headers. A study that no scan can be chosen of becomes a case that says why
not; the others go on. Ids and groups are pseudonyms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import ConfigError, DataError
from medseg.data.cases import Case, Key, pseudonym
from medseg.data.series import Fit, convert_units, list_fits, settle
from medseg.data.settings import Data, SeriesRule
from medseg.io import is_image, looks_like_dicom

if TYPE_CHECKING:
    from medseg.io.dicom.scan import Index, Instance, Options, Scan, Series

SERIES_ID = re.compile(r"dcm-[0-9a-f]{12}")
LOOKS = 1000  # files that are opened to see whether a folder holds DICOM


@dataclass(frozen=True)
class Wanted:
    """What the user says of DICOM inputs; `series` and `volume` go before the pipeline's rules.

    Args:
        series: Number or id as `inspect` lists them, or SeriesInstanceUID.
        volume: Number within the series, from 1.
        slice_thickness_mm: Of single slices whose header does not say it.
    """

    series: str | None = None
    volume: int | None = None
    allow_tilt: bool = False
    allow_resample_z: bool = False
    slice_thickness_mm: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What changes an output's bits; which series it is, its files say."""
        return {key: value for key, value in asdict(self).items() if key not in {"series", "volume"}}

    @property
    def dicom_options(self) -> list[str]:
        """The options that were given and mean nothing to other images than DICOM."""
        given = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
        if self.series == "all":  # every volume there is: so it is with files
            given.remove("series")
        return [f"--{name.removesuffix('_mm').replace('_', '-')}" for name in given]

    @property
    def options(self) -> Options:
        """What indexing takes."""
        from medseg.io.dicom import Options

        return Options(**self.settings)


def refuse_dicom_options(wanted: Wanted, cases: Sequence[Case]) -> None:
    """Refuse options that none of the inputs can obey, rather than ignore them.

    Raises:
        ConfigError: OPTION_NEEDS_DICOM.
    """
    if wanted.dicom_options and not any(case.is_pseudonymous for case in cases):
        raise ConfigError(
            f"{', '.join(wanted.dicom_options)} is for DICOM, and no input is",
            hint="leave it out",
            code="OPTION_NEEDS_DICOM",
        )


def holds_dicom(root: Path) -> bool:
    """Say by the first bytes of its files whether this is DICOM, or a folder with some in or below it."""
    if root.is_file():
        return looks_like_dicom(root)
    files = (path for path in root.rglob("*") if not is_image(path) and path.is_file())
    return any(looks_like_dicom(path) for path in islice(files, LOOKS))


def read_index(root: Path | Sequence[Path], wanted: Wanted | None = None) -> Index:
    """Index a folder that holds DICOM and no other image, or files of one or several series.

    Raises:
        DataError: INPUT_MIXED.
    """
    from medseg.io.dicom import find_series

    index = find_series(root, (wanted or Wanted()).options)
    if others := sum(is_image(path) for path in index.others):
        raise mixed(others)
    return index


def mixed(count: int) -> DataError:
    """Return the error of a folder that holds DICOM and other images."""
    return DataError(
        f"DICOM files and {count} other image{'s' * (count > 1)} lie in one folder",
        hint="give the folder of one kind, the files themselves, or a table of cases",
        code="INPUT_MIXED",
    )


def find_scans(root: Path | Sequence[Path], settings: Data, key: Key, wanted: Wanted) -> list[Case]:
    """Return a case for each patient and study below a folder, or in a file.

    Raises:
        DataError: INPUT_MIXED, NO_CASES, or DICOM_DAMAGED: nothing but damaged files.
        ConfigError: SERIES_UNKNOWN, VOLUME_UNKNOWN or SERIES_CHANNELS.
    """
    index = read_index(root, wanted)
    if wanted.series is not None:
        return [_pick_series(index, settings, wanted, key())]
    rules = [channel.series for channel in settings.channels.values()]
    return [
        _try_case(study, [list_fits(study, rule, wanted.volume) for rule in rules], settings, key())
        for study in list_studies(index)
    ] + list(list_damaged(index, key))


def _pick_series(index: Index, settings: Data, wanted: Wanted, secret: bytes) -> Case:
    from medseg.io.dicom import choose_scans

    if len(settings.channels) > 1:
        raise ConfigError(
            f"--series picks one scan where the model has {len(settings.channels)} channels",
            hint="the pipeline's data.channels.<name>.series pick one scan a channel",
            code="SERIES_CHANNELS",
        )
    named = resolve_series(index.series, wanted.series, lambda: secret)
    asked = find_asked(index.series, named)
    try:
        (scan,) = choose_scans(index, series=named, volume=wanted.volume)
        return make_case([convert_units(scan, next(iter(settings.channels.values())).series)], secret)
    except DataError as error:
        if asked is None:
            raise
        return refuse_case(name_volume(asked, wanted.volume, secret), asked.first, error, secret)


def find_asked(series: Sequence[Series], wanted: str | None) -> Series | None:
    """Return the series of a number or UID."""
    return next((one for one in series if wanted in {str(one.number), one.first.series}), None)


def resolve_series(series: Sequence[Series], wanted: str | None, key: Key) -> str | None:
    """Return the number of the series whose id was asked for; what else was asked for stays as it is."""
    if wanted is None or not SERIES_ID.fullmatch(wanted):
        return wanted
    secret = key()
    numbers = [one.number for one in series if name_series(one.first, secret) == wanted]
    return str(numbers[0]) if len(numbers) == 1 else wanted  # without UIDs, two may share an id


def find_labelled(root: Path, settings: Data, key: Key) -> list[Case]:
    """Return a case for each patient and study below a folder, with its RTSTRUCT or SEG.

    Where several scans fit the only channel, those count that have a label; where there is a rule that they
    fit, each of them is a case.

    Raises:
        DataError: INPUT_MIXED, NO_CASES.
    """
    index = read_index(root)
    rules = [channel.series for channel in settings.channels.values()]
    return [
        add_label(_try_case(study, fits, settings, key()), index, settings)
        for study in list_studies(index)
        for fits in _split_by_label([list_fits(study, rule) for rule in rules], rules, index)
    ] + list(list_damaged(index, key))


def list_studies(index: Index) -> list[tuple[Series, ...]]:
    """Return the studies that hold images; labels lie in studies of their own now and then.

    Raises:
        DataError: There is no image at all.
    """
    from medseg.io.dicom import choose_scans, group_studies

    studies = [study for study in group_studies(index) if any(series.is_image for series in study)]
    if not studies:
        choose_scans(index)  # says why
    return studies


def list_damaged(index: Index, key: Key) -> Iterator[Case]:
    """Yield a case for each folder of damaged files without a scan; beside a scan they refuse it."""
    homes = {i.path.parent for series in index.series if series.is_image for i in series.instances}
    for folder, error in {path.parent: error for path, error in index.damaged}.items():
        if folder not in homes:
            # The whole path, as two inputs may both have damaged files at their top.
            name = pseudonym(key(), f"folder {folder.resolve()}")
            yield Case(f"dcm-{name}", (), error=error, is_pseudonymous=True)


def make_case(scans: Sequence[Scan], secret: bytes) -> Case:
    """Return the case of scans, one a channel."""
    from medseg.io.dicom import scan_id

    group = name_patient(scans[0].first, secret)
    return Case(scan_id(scans[0], secret), tuple(scans), group=group, is_pseudonymous=True)


def _try_case(study: Sequence[Series], fits: Sequence[list[Fit]], settings: Data, secret: bytes) -> Case:
    try:
        return make_case(settle(fits, settings), secret)
    except DataError as error:
        return refuse_case(_name_refused(study, fits, secret), study[0].first, error, secret)


def _name_refused(study: Sequence[Series], fits: Sequence[list[Fit]], secret: bytes) -> str:
    """Return the id that the case has once it is good, where that is known."""
    if len(fits[0]) == 1:
        ((series, candidate),) = fits[0]
        number = next(n for n, one in enumerate(series.candidates, start=1) if one is candidate)
        return name_volume(series, number, secret)
    tried = " ".join(sorted({fit.series.first.series for own in fits for fit in own}))
    return f"dcm-{pseudonym(secret, f'study {study[0].first.study} {tried}')}"


def refuse_case(name: str, first: Instance, error: DataError, secret: bytes) -> Case:
    """Return a case that says why it is none."""
    return Case(name, (), group=name_patient(first, secret), error=error, is_pseudonymous=True)


def name_series(first: Instance, secret: bytes) -> str:
    """Return a series' pseudonym: the id of its volume where it holds one."""
    return f"dcm-{pseudonym(secret, f'{first.study} {first.series}')}"


def name_volume(series: Series, volume: int | None, secret: bytes) -> str:
    """Return the id of a volume by its number; that of the series where it holds one, or none is named."""
    name = name_series(series.first, secret)
    return f"{name}-v{volume}" if volume and len(series.candidates) > 1 else name


def name_patient(first: Instance, secret: bytes) -> str:
    """Return the patient's pseudonym; without a patient id every study counts as a patient."""
    return "pat-" + pseudonym(secret, f"patient {first.patient}" if first.patient else f"study {first.study}")


def _split_by_label(
    fits: list[list[Fit]], rules: Sequence[SeriesRule], index: Index
) -> list[list[list[Fit]]]:
    """Return the fits of each channel, once for each case that the study makes."""
    from medseg.io.dicom.labels.label import find_labels

    if len(fits) > 1 or len(fits[0]) < 2:
        return [fits]
    labelled = [fit for fit in fits[0] if find_labels(index, fit.series)]
    is_told_apart = len({fit.series.number for fit in labelled}) == len(labelled)
    if labelled and is_told_apart and (len(labelled) == 1 or not rules[0].is_open):
        return [[[fit]] for fit in labelled]
    return [fits]


def add_label(case: Case, index: Index, settings: Data) -> Case:
    """Return the case with the RTSTRUCT or SEG that refers to one of its scans, or with why it has none."""
    from medseg.io.dicom.labels.label import find_labels, make_label

    scans = [image for image in case.images if not isinstance(image, Path)]
    found = [(label, scan) for scan in scans for label in find_labels(index, scan)]
    try:
        if len({label.path for label, _ in found}) > 1:
            raise DataError(
                f"{len(found)} RTSTRUCT or SEG objects refer to the scan",
                hint="keep the one to learn from, or list the cases in a table",
                code="LABEL_AMBIGUOUS",
            )
        return replace(case, label=make_label(*found[0], settings.rois, settings.labels)) if found else case
    except DataError as error:
        return replace(case, images=(), error=error)
