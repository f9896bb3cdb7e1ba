"""Scans to segment: what the arguments of `infer` may be (no labels needed)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.core.errors import ConfigError
from medseg.data.cases import Case, Key, make_id, no_key, require_path, require_unique
from medseg.data.layouts import (
    channel_files,
    find_label,
    list_folders,
    list_images,
    pick_or_nothing,
)
from medseg.data.settings import Data
from medseg.data.studies import Wanted, find_scans, holds_dicom, refuse_dicom_options
from medseg.data.tables import is_table, read_table
from medseg.io import is_image, stem


def find_inputs(
    paths: Sequence[Path], settings: Data, key: Key = no_key, wanted: Wanted | None = None
) -> list[Case]:
    """Return the cases that files, folders of images, patients or DICOM, or a table name.

    Args:
        paths: What the user gave.
        settings: The model's.
        key: For the pseudonyms of DICOM scans.
        wanted: What the user says of DICOM inputs.

    Raises:
        ConfigError: Nothing there, not a kind of file that can be read, or no such DICOM series.
        DataError: No case, ids are not unique, or DICOM and other images are mixed.
    """
    wanted = wanted or Wanted()
    loose = [path for path in paths if _is_slice(path)]  # given one by one, they are one series
    cases = [case for path in paths if path not in loose for case in _find(path, settings, key, wanted)]
    cases += find_scans(loose, settings, key, wanted) if loose else []
    if wanted.series is not None and not any(case.is_pseudonymous for case in cases):
        raise ConfigError(
            "--series was given, and no input is a DICOM folder", hint="leave it out", code="SERIES_UNKNOWN"
        )
    refuse_dicom_options(wanted, cases)
    return require_unique(cases)


def _is_slice(path: Path) -> bool:
    return path.is_file() and not is_table(path) and not is_image(path) and holds_dicom(path)


def _find(path: Path, settings: Data, key: Key, wanted: Wanted) -> list[Case]:
    require_path(path)
    if is_table(path):
        return read_table(path, settings, key, wanted)
    if path.is_file() and is_image(path):
        return [Case(make_id(stem(path)), (path,))]
    if holds_dicom(path):
        return find_scans(path, settings, key, wanted)
    if path.is_file():
        raise ConfigError(
            "this kind of file is not known", hint="see `medseg list formats`", code="FORMAT_UNKNOWN"
        )
    if list_images(path):
        files_of = channel_files(list_images(path), len(settings.channels))
        return [Case(name, files) for name, files in files_of]
    folders = list_folders(path)
    if not any(list_images(folder) for folder in folders):
        return []
    return [_find_patient(folder, settings) for folder in folders]  # one without an image is reported


def _find_patient(folder: Path, settings: Data) -> Case:
    label = find_label(folder, settings)  # may lie beside the scan, and is no channel of it
    return Case(make_id(folder.name), pick_or_nothing(folder, settings, label))
