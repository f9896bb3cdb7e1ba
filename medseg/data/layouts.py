"""Layouts of labelled cohorts: found, not described.

Each entry of LAYOUTS is a `(sniff, find)` pair. `sniff(root)` says whether a folder or file looks like
it, `find(root, settings, key)` lists its cases. The dict's order is the order in which they are tried.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, NamedTuple

from medseg.core.errors import ConfigError, DataError
from medseg.core.select import suggest
from medseg.data.cases import (
    MAPS,
    Case,
    Key,
    assign_groups,
    confine,
    distinct_channels,
    make_id,
    no_key,
    refuse_twins,
    require_unique,
)
from medseg.data.settings import Data
from medseg.data.studies import find_labelled, holds_dicom
from medseg.data.tables import is_table, read_table
from medseg.io import is_image, stem

IMAGE_FOLDERS = ("images", "imagesTr", "image")
LABEL_FOLDERS = ("labels", "labelsTr", "masks", "instances")
CHANNEL = re.compile(r"_(\d{4})$")  # nnU-Net: <id>_0000.<ext> is channel 0


class Layout(NamedTuple):
    """How one way to store a cohort is recognised and listed."""

    sniff: Callable[[Path], bool]
    find: Callable[[Path, Data, Key], list[Case]]


def find_cohort(root: Path, settings: Data, key: Key = no_key) -> tuple[str, list[Case]]:
    """Return the layout's name and the cases below `root`, sorted by id.

    Args:
        root: Folder or table.
        settings: The task's.
        key: For the pseudonyms of DICOM scans.

    Raises:
        ConfigError: Nothing there, or no layout fits.
        DataError: No case, ids are not unique, or DICOM and other images are mixed.
    """
    if not root.exists():
        raise ConfigError("there is no such folder or file", hint="check --data", code="DATA_MISSING")
    if settings.layout != "auto" and settings.layout not in LAYOUTS:
        raise ConfigError(
            f"no layout is called `{settings.layout}`",
            hint=suggest(settings.layout, LAYOUTS),
            code="UNKNOWN_NAME",
        )
    for name, layout in LAYOUTS.items():
        if settings.layout in {name, "auto"} and layout.sniff(root):
            cases = assign_groups(layout.find(root, settings, key), settings.group_pattern)
            return name, require_unique(cases)
    which = "no known layout of a labelled cohort fits"
    raise ConfigError(
        which if settings.layout == "auto" else f"layout `{settings.layout}` does not fit",
        hint=f"known: {', '.join(LAYOUTS)}; see docs/data.md",
        code="LAYOUT_UNKNOWN",
    )


def channel_files(
    files: list[Path], n_channels: int, labelled: Container[str] = ()
) -> list[tuple[str, tuple[Path, ...]]]:
    """Return case ids with their image files: `<id>_0000`, `<id>_0001`, ... are channels of one case.

    Numbers belong to the id where they cannot be channels: one of them is too high (`scan_0000` to
    `scan_0009` for one channel), or a label has the whole name.

    Args:
        files: Images of one folder.
        n_channels: Channels that the pipeline wants.
        labelled: Ids that have a label.
    """
    stems = {file: stem(file) for file in sorted(files)}
    serial = set()
    for name in stems.values():
        if match := CHANNEL.search(name):
            is_too_high = int(match.group(1)) >= n_channels
            serial |= {CHANNEL.sub("", name)} if is_too_high or make_id(name) in labelled else set()
    grouped: dict[tuple[str, bool, str], list[Path]] = {}
    for file, name in stems.items():
        base = CHANNEL.sub("", name)
        is_channel = name != base and base not in serial
        whole = base if is_channel else name
        # By full name too: files that are no channels of each other, but become one id, are refused later.
        key = (make_id(whole), is_channel, file.name.replace(name, whole, 1))
        grouped.setdefault(key, []).append(file)
    return [(case_id, tuple(paths)) for (case_id, *_), paths in grouped.items()]


def list_images(folder: Path) -> list[Path]:
    """Return the visible image files directly in `folder`."""
    return [path for path in sorted(folder.iterdir()) if is_image(path) and not path.name.startswith(".")]


def list_masks(folder: Path) -> list[Path]:
    """Return the visible image files directly in `folder` but for the maps that `infer` adds to masks."""
    return [path for path in list_images(folder) if not stem(path).endswith(MAPS)]


def pick_channels(folder: Path, settings: Data, exclude: Path | None = None) -> tuple[Path, ...]:
    """Return the one file per channel that matches the channel's pattern in a patient's folder.

    Raises:
        DataError: No or several files match a channel.
    """
    files = [file for file in list_images(folder) if file != exclude]
    picked = []
    for name, channel in settings.channels.items():
        matches = [file for file in files if file.match(channel.pattern)]
        if len(matches) != 1:
            raise DataError(
                f"{len(matches)} files match `{channel.pattern}` for channel {name}",
                hint="set data.channels.<name>.pattern so that exactly one file matches",
                code="CHANNEL_MISSING" if not matches else "CHANNEL_AMBIGUOUS",
            )
        picked.append(matches[0])
    return distinct_channels(picked)


def pick_or_nothing(folder: Path, settings: Data, exclude: Path | None = None) -> tuple[Path, ...]:
    """Return no file where `pick_channels` raises; reading the case then says why."""
    try:
        return pick_channels(folder, settings, exclude)
    except DataError:
        return ()


def _read_dataset_json(root: Path) -> dict[str, Any]:
    try:
        tree = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("dataset.json is not valid JSON", code="JSON_INVALID") from error
    return tree if isinstance(tree, dict) else {}


def _is_msd(root: Path) -> bool:
    return (root / "dataset.json").is_file() and isinstance(_read_dataset_json(root).get("training"), list)


def _find_msd(root: Path, settings: Data, key: Key) -> list[Case]:
    cases = []
    for number, entry in enumerate(_read_dataset_json(root)["training"], start=1):
        listed = [entry.get(key) for key in ("image", "label")] if isinstance(entry, dict) else []
        if len(names := [name for name in listed if isinstance(name, str) and name]) != 2:
            raise DataError(
                f"entry {number} of `training` in dataset.json does not name an image and a label",
                hint='an entry is {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}',
                code="TABLE_INVALID",
            )
        image, label = (confine(root, name, f"entry {number} of `training`") for name in names)
        cases.append(Case(make_id(stem(image)), (image,), label))
    return cases


def _is_nnunet(root: Path) -> bool:
    """An image is `<id>_0000` where its label is `<id>`; in MSD both have one name."""
    if not ((root / "imagesTr").is_dir() and (root / "labelsTr").is_dir()):
        return False
    labels = {stem(file) for file in list_images(root / "labelsTr")}
    names = (stem(file) for file in list_images(root / "imagesTr"))
    return any(CHANNEL.search(name) and CHANNEL.sub("", name) in labels for name in names)


def _find_nnunet(root: Path, settings: Data, key: Key) -> list[Case]:
    return _pair_folders(root / "imagesTr", root / "labelsTr", settings)


def _two_folders(root: Path) -> tuple[Path, Path] | None:
    images = [root / name for name in IMAGE_FOLDERS if (root / name).is_dir()]
    labels = [root / name for name in LABEL_FOLDERS if (root / name).is_dir()]
    return (images[0], labels[0]) if len(images) == 1 and len(labels) == 1 else None


def _find_folders(root: Path, settings: Data, key: Key) -> list[Case]:
    folders = _two_folders(root)
    return _pair_folders(*folders, settings) if folders else []


def _pair_folders(images: Path, labels: Path, settings: Data) -> list[Case]:
    files = list_images(labels)
    names = [make_id(stem(file)) for file in files]
    refuse_twins(names, "labels")
    label_of = dict(zip(names, files, strict=True))
    files_of = channel_files(list_images(images), len(settings.channels), label_of)
    cases = [Case(name, files, label_of.get(name)) for name, files in files_of]
    orphans = label_of.keys() - {case.id for case in cases}  # labels without an image are reported too
    return cases + [Case(name, (), label_of[name]) for name in sorted(orphans)]


def _is_patients(root: Path) -> bool:
    return root.is_dir() and any(list_images(folder) for folder in list_folders(root))


def _find_patients(root: Path, settings: Data, key: Key) -> list[Case]:
    cases = []
    for folder in list_folders(root):
        label = find_label(folder, settings)
        cases.append(Case(make_id(folder.name), pick_or_nothing(folder, settings, label), label))
    return cases


def find_label(folder: Path, settings: Data) -> Path | None:
    """Return the one file of a patient's folder that matches the label's pattern."""
    labels = [file for file in list_images(folder) if file.match(settings.label_pattern)]
    return labels[0] if len(labels) == 1 else None


def list_folders(root: Path) -> list[Path]:
    """Return the visible folders directly in `root`."""
    return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _is_bids(root: Path) -> bool:
    return root.is_dir() and (root / "derivatives").is_dir() and any(root.glob("sub-*"))


def _find_bids(root: Path, settings: Data, key: Key) -> list[Case]:
    labels = sorted(
        [*root.glob("derivatives/**/sub-*_dseg.nii*"), *root.glob("derivatives/**/sub-*_mask.nii*")]
    )
    folders_of: dict[tuple[str, ...], list[Path]] = {}
    for folder in sorted({file.parent for file in root.glob("sub-*/**/*.nii*")}):
        parts = folder.relative_to(root).parts
        session = tuple(part for part in parts if part.startswith(("sub-", "ses-")))
        folders_of.setdefault(session, []).append(folder)
    cases = []
    for session, folders in folders_of.items():
        own = [label for label in labels if set(session) <= set(label.name.split("_"))]
        found = [images for folder in folders if (images := pick_or_nothing(folder, settings))]
        images = found[0] if len(found) == 1 else ()
        label = own[0] if len(own) == 1 else None
        cases.append(Case(make_id("_".join(session)), images, label, group=make_id(session[0])))
    return cases


LAYOUTS: dict[str, Layout] = {
    "table": Layout(is_table, read_table),
    "nnunet": Layout(_is_nnunet, _find_nnunet),  # before MSD: nnU-Net 1 wrote the same dataset.json
    "msd": Layout(_is_msd, _find_msd),
    "folders": Layout(lambda root: _two_folders(root) is not None, _find_folders),
    "bids": Layout(_is_bids, _find_bids),
    "dicom": Layout(lambda root: root.is_dir() and holds_dicom(root), find_labelled),
    "patients": Layout(_is_patients, _find_patients),  # after DICOM, which refuses to be mixed with others
}
