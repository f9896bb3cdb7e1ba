"""Scans to segment: what the arguments of `infer` may be (no labels needed)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.core.errors import ConfigError
from medseg.data.cases import Case, make_id, require_unique
from medseg.data.layouts import (
    channel_files,
    find_label,
    list_folders,
    list_images,
    pick_or_nothing,
)
from medseg.data.settings import Data
from medseg.data.tables import is_table, read_table
from medseg.io import is_image, stem


def find_inputs(paths: Sequence[Path], settings: Data) -> list[Case]:
    """Return the cases that files, folders of images, folders of patients or a table name.

    Raises:
        ConfigError: Nothing there, or not a kind of file that can be read.
        DataError: No case, or ids are not unique.
    """
    return require_unique([case for path in paths for case in _find(path, settings)])


def _find(path: Path, settings: Data) -> list[Case]:
    if not path.exists():
        raise ConfigError("there is no such file or folder", hint="check the path", code="INPUT_MISSING")
    if is_table(path):
        return read_table(path, list(settings.channels))
    if path.is_file():
        if not is_image(path):
            raise ConfigError(
                "this kind of file is not known", hint="see `medseg list formats`", code="FORMAT_UNKNOWN"
            )
        return [Case(make_id(stem(path)), (path,))]
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
