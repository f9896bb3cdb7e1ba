"""What paths on the command line hold: DICOM volumes and other images as cases, refused ones among them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import ConfigError, DataError
from medseg.data.cases import Case, Key, make_id, require_unique
from medseg.io import is_image, stem

if TYPE_CHECKING:
    from medseg.io.dicom import Index, Options, Scan, Series


@dataclass(frozen=True)
class Request:
    """Which volume of a DICOM study is wanted, and what may be repaired; other images ignore it.

    Args:
        series: Number as `inspect` lists it, SeriesInstanceUID, or "all" for every volume there is.
        volume: Number within the series, from 1.
    """

    series: str | None = None
    volume: int | None = None
    allow_tilt: bool = False
    allow_resample_z: bool = False
    slice_thickness_mm: float | None = None
    suv: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What changes an output's bits; which series it is, its files say."""
        return {key: value for key, value in asdict(self).items() if key not in {"series", "volume"}}

    @property
    def options(self) -> Options:
        """The same for the DICOM reader."""
        from medseg.io.dicom import Options

        return Options(**self.settings)


def refuse_inputs_in(out: Path, paths: Sequence[Path]) -> None:
    """Keep outputs from replacing inputs, or from being taken for inputs next time.

    Raises:
        ConfigError: OUT_HOLDS_INPUT.
    """
    place = out.resolve()
    for path in paths:
        is_inside = path.is_dir() and path.resolve() in (place, *place.parents)
        if is_inside or (path.is_file() and path.resolve().parent == place):
            raise ConfigError(
                "the output folder is, or lies in, a folder of inputs",
                hint="choose another with -o",
                code="OUT_HOLDS_INPUT",
            )


def find_scans(paths: Sequence[Path], request: Request, key: Key) -> list[Case]:
    """Return the cases that paths name, sorted by id; one that is refused already carries its error.

    Raises:
        ConfigError: INPUT_MISSING, FORMAT_UNKNOWN, SERIES_UNKNOWN or VOLUME_UNKNOWN.
        DataError: NO_CASES, DUPLICATE_ID or INPUT_MIXED.
    """
    return require_unique([case for path in paths for case in _find(path, request, key)])


def _find(path: Path, request: Request, key: Key) -> list[Case]:
    if not path.exists():
        raise ConfigError("there is no such file or folder", hint="check the path", code="INPUT_MISSING")
    if is_image(path):
        return [Case(make_id(stem(path)), (path,))]
    from medseg.io.dicom import find_series

    index = find_series(path, request.options)
    images = [other for other in index.others if is_image(other)]
    if index.series or index.damaged:
        if images:
            raise mixed(len(images))
        return [*_choose(index, request, key), *_report_damaged(index)]
    if path.is_file():
        raise ConfigError(
            "this kind of file is not known", hint="see `medseg list formats`", code="FORMAT_UNKNOWN"
        )
    return [Case(make_id(stem(image)), (image,)) for image in images]


def mixed(count: int) -> DataError:
    """Return the error of a folder that holds DICOM and other images."""
    return DataError(
        f"DICOM files and {count} other image{'s' * (count > 1)} lie in one folder",
        hint="give the folder of one kind, or the files themselves",
        code="INPUT_MIXED",
    )


def _choose(index: Index, request: Request, key: Key) -> Iterator[Case]:
    """Yield one case a study, or every volume where all series are asked for."""
    from medseg.io.dicom import choose_scan, choose_scans, group_studies

    if request.series == "all":
        for study in group_studies(index):
            for series in list_scans(study):
                yield from _take_all(series, key)
        return
    for study in group_studies(index):
        asked = [one for one in study if request.series in {str(one.number), one.first.series}]
        if request.series is not None and not asked:
            continue
        try:
            yield _make_case(choose_scan(study, series=request.series, volume=request.volume), key)
        except DataError as error:
            yield _refused(name_study(asked or study, key), error)
        if asked:
            return
    if request.series is not None:
        choose_scans(index, series=request.series)  # says that there is none


def list_scans(study: Sequence[Series]) -> list[Series]:
    """Return the series that are or should be volumes; screenshots only where there is nothing better."""
    from medseg.io.dicom.index import is_nowhere as is_nowhere

    images = [one for one in study if one.is_image and not one.is_localizer]
    return [one for one in images if not is_nowhere(one)] or images


def _take_all(series: Series, key: Key) -> Iterator[Case]:
    for number, candidate in enumerate(series.candidates, start=1):
        if candidate.scan is not None:
            yield _make_case(candidate.scan, key)
        else:
            assert candidate.error is not None
            name = name_series(series, key) + (f"-v{number}" if len(series.candidates) > 1 else "")
            yield _refused(name, candidate.error)


def _make_case(scan: Scan, key: Key) -> Case:
    from medseg.io.dicom import scan_id

    return Case(scan_id(scan, key()), (scan,), is_pseudonymous=True)


def _refused(name: str, error: DataError) -> Case:
    return Case(name, (), error=error, is_pseudonymous=True)


def _report_damaged(index: Index) -> Iterator[Case]:
    """Yield a refused case for each damaged file beside no series: those of a series refuse that series."""
    homes = {instance.path.parent for series in index.series for instance in series.instances}
    alone = [error for path, error in index.damaged if path.parent not in homes]
    for number, error in enumerate(alone, start=1):
        yield _refused(f"damaged-{number}", error)


def name_series(series: Series, key: Key) -> str:
    """Return a series' pseudonym: the id of its volume where it holds one."""
    from medseg.io.dicom import pseudonym

    return pseudonym(f"{series.first.study} {series.first.series}", key())


def name_study(study: Sequence[Series], key: Key) -> str:
    """Return the pseudonym of the only image series of a study, else one of the study."""
    from medseg.io.dicom import pseudonym

    scans = list_scans(study) or study
    return (
        name_series(scans[0], key) if len(scans) == 1 else pseudonym(f"study {study[0].first.study}", key())
    )


def safe_word(text: str) -> str | None:
    """Return a code string as it is, and nothing where a header holds other text in its place."""
    return text if re.fullmatch(r"[A-Z0-9]{2,16}", text) else None
