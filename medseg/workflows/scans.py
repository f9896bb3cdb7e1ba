"""What paths on the command line hold: DICOM volumes and other images as cases, refused ones among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import ConfigError, DataError
from medseg.data.cases import Case, Key, make_id, pseudonym, require_path, require_unique
from medseg.data.studies import (
    Wanted,
    find_asked,
    list_damaged,
    make_case,
    mixed,
    name_volume,
    refuse_case,
    refuse_dicom_options,
    resolve_series,
)
from medseg.io import is_image, list_files, stem

if TYPE_CHECKING:
    from medseg.io.dicom import Index, Scan, Series


@dataclass(frozen=True)
class Request(Wanted):
    """Which volume of a DICOM study is wanted, and what may be repaired; other images know neither.

    Args:
        series: Number or id as `inspect` lists them, SeriesInstanceUID, or "all" for every volume there is.
        suv: PET in Bq/ml to SUV by body weight.
    """

    suv: bool = False


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
        ConfigError: INPUT_MISSING, FORMAT_UNKNOWN, SERIES_UNKNOWN, VOLUME_UNKNOWN or OPTION_NEEDS_DICOM.
        DataError: NO_CASES, DUPLICATE_ID or INPUT_MIXED.
    """
    for path in paths:
        require_path(path)
    loose = [path for path in paths if path.is_file() and not is_image(path)]  # slices given one by one
    groups = [[path] for path in paths if path not in loose] + ([loose] if loose else [])
    cases = require_unique([case for group in groups for case in _find(group, request, key)])
    refuse_dicom_options(request, cases)
    return cases


def _find(paths: Sequence[Path], request: Request, key: Key) -> list[Case]:
    """Return the cases of one image or folder, or of files that are no images by their names."""
    if is_image(paths[0]):
        return [Case(make_id(stem(paths[0])), (paths[0],))]
    from medseg.io.dicom import find_series

    index = find_series(paths, request.options)
    if any(path in index.others for path in paths):
        raise ConfigError(
            "this kind of file is not known", hint="see `medseg list formats`", code="FORMAT_UNKNOWN"
        )
    images = [other for other in index.others if is_image(other)]
    if index.series or index.damaged:
        if images:
            raise mixed(len(images))
        return [*_choose(index, request, key), *list_damaged(index, key)]
    return [Case(make_id(stem(image)), (image,)) for image in images]


def _choose(index: Index, request: Request, key: Key) -> Iterator[Case]:
    """Yield one case a study, or every volume where all series are asked for."""
    from medseg.io.dicom import choose_scan, choose_scans, group_studies

    if request.series == "all":
        for study in group_studies(index):
            for series in list_scans(study):
                yield from _take_all(series, key)
        return
    named = resolve_series(index.series, request.series, key)
    for study in group_studies(index):
        asked = find_asked(study, named)
        if request.series is not None and asked is None:
            continue
        try:
            yield make_case([choose_scan(study, series=named, volume=request.volume)], key())
        except DataError as error:
            name = name_study([asked] if asked else study, request.volume, key())
            yield refuse_case(name, study[0].first, error, key())
        if asked:
            return
    if request.series is not None:
        choose_scans(index, series=named)  # says that there is none


def list_scans(study: Sequence[Series]) -> list[Series]:
    """Return the series that are or should be volumes; screenshots only where there is nothing better."""
    from medseg.io.dicom.index import is_nowhere

    images = [one for one in study if one.is_image and not one.is_localizer]
    return [one for one in images if not is_nowhere(one)] or images


def _take_all(series: Series, key: Key) -> Iterator[Case]:
    for number, candidate in enumerate(series.candidates, start=1):
        if candidate.scan is not None:
            yield make_case([candidate.scan], key())
        else:
            assert candidate.error is not None
            name = name_volume(series, number, key())
            yield refuse_case(name, series.first, candidate.error, key())


def name_study(study: Sequence[Series], volume: int | None, secret: bytes) -> str:
    """Return the id of the only image series of a study, or of its volume, else a pseudonym of the study."""
    scans = list_scans(study) or study
    if len(scans) == 1:
        return name_volume(scans[0], volume, secret)
    return f"dcm-{pseudonym(secret, f'study {study[0].first.study}')}"


def name_modalities(case: Case) -> str:
    """Return DICOM's words for a case's channels: "CT", "PT+CT"; "" where one is a file or names none."""
    words = [describe_scan(image, 0)["modality"] for image in case.images if not isinstance(image, Path)]
    return "+".join(words) if len(words) == len(case.images) and all(words) else ""


def describe_scan(image: Path | Scan, slices: int) -> dict[str, Any]:
    """Return what a sidecar tells of the source: numbers and code words, nothing that names a patient."""
    if isinstance(image, Path):
        return {"modality": None, "slices": slices, "repair": "", "source_files": len(list_files(image))}
    from medseg.io.dicom.tags import name_modality

    return {
        "modality": name_modality(image.modality),
        "slices": len(image.frames),
        "repair": image.repair,
        "source_files": len(image.files),
    }
