"""Layouts of labelled cohorts: found, not described.

Each entry of LAYOUTS is a `(sniff, find)` pair. `sniff(root)` says whether a folder or file looks like
it, `find(root, settings)` lists its cases. The dict's order is the order in which they are tried.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from medseg.core.errors import ConfigError, DataError
from medseg.core.select import suggest
from medseg.data.cases import Case, assign_groups, confine, make_id, require_unique
from medseg.data.settings import Data
from medseg.io import is_image, stem

IMAGE_FOLDERS = ("images", "imagesTr", "image")
LABEL_FOLDERS = ("labels", "labelsTr", "masks", "instances")
CHANNEL = re.compile(r"_(\d{4})$")  # nnU-Net: <id>_0000.<ext> is channel 0


class Layout(NamedTuple):
    """How one way to store a cohort is recognised and listed."""

    sniff: Callable[[Path], bool]
    find: Callable[[Path, Data], list[Case]]


def find_cohort(root: Path, settings: Data) -> tuple[str, list[Case]]:
    """Return the layout's name and the cases below `root`, sorted by id.

    Raises:
        ConfigError: Nothing there, or no layout fits.
        DataError: No case, or ids are not unique.
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
        if settings.layout == name or (settings.layout == "auto" and layout.sniff(root)):
            cases = assign_groups(layout.find(root, settings), settings.group_pattern)
            return name, require_unique(cases)
    raise ConfigError(
        "no known layout of a labelled cohort fits",
        hint=f"known: {', '.join(LAYOUTS)}; see docs/data.md",
        code="LAYOUT_UNKNOWN",
    )


def channel_files(files: list[Path], n_channels: int) -> dict[str, tuple[Path, ...]]:
    """Group image files by case id: `<id>_0000`, `<id>_0001`, ... are channels of one case.

    A number that cannot be a channel (`scan_2021` for one channel) belongs to the id.
    """
    grouped: dict[str, list[Path]] = {}
    for file in sorted(files):
        match = CHANNEL.search(stem(file))
        numbered = match is not None and int(match.group(1)) < n_channels
        name = CHANNEL.sub("", stem(file)) if numbered else stem(file)
        grouped.setdefault(make_id(name), []).append(file)
    return {name: tuple(paths) for name, paths in grouped.items()}


def list_images(folder: Path) -> list[Path]:
    """Return the visible image files directly in `folder`."""
    return [path for path in sorted(folder.iterdir()) if is_image(path) and not path.name.startswith(".")]


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
    return tuple(picked)


def _read_dataset_json(root: Path) -> dict[str, Any]:
    try:
        tree = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("dataset.json is not valid JSON", code="JSON_INVALID") from error
    return tree if isinstance(tree, dict) else {}


def _is_msd(root: Path) -> bool:
    return (root / "dataset.json").is_file() and isinstance(_read_dataset_json(root).get("training"), list)


def _find_msd(root: Path, settings: Data) -> list[Case]:
    cases = []
    for entry in _read_dataset_json(root)["training"]:
        image, label = confine(root, entry["image"]), confine(root, entry["label"])
        cases.append(Case(make_id(stem(image)), (image,), label))
    return cases


def _is_nnunet(root: Path) -> bool:
    folders = (root / "imagesTr").is_dir() and (root / "labelsTr").is_dir()
    return folders and any(CHANNEL.search(stem(file)) for file in list_images(root / "imagesTr")[:4])


def _find_nnunet(root: Path, settings: Data) -> list[Case]:
    return _pair_folders(root / "imagesTr", root / "labelsTr", settings)


def _two_folders(root: Path) -> tuple[Path, Path] | None:
    images = [root / name for name in IMAGE_FOLDERS if (root / name).is_dir()]
    labels = [root / name for name in LABEL_FOLDERS if (root / name).is_dir()]
    return (images[0], labels[0]) if len(images) == 1 and len(labels) == 1 else None


def _find_folders(root: Path, settings: Data) -> list[Case]:
    folders = _two_folders(root)
    if folders is None:
        raise DataError(
            f"expected one folder of {', '.join(IMAGE_FOLDERS)} and one of {', '.join(LABEL_FOLDERS)}",
            code="LAYOUT_UNKNOWN",
        )
    return _pair_folders(*folders, settings)


def _pair_folders(images: Path, labels: Path, settings: Data) -> list[Case]:
    label_of = {make_id(stem(file)): file for file in list_images(labels)}
    files_of = channel_files(list_images(images), len(settings.channels))
    return [Case(name, files, label_of.get(name)) for name, files in files_of.items()]


def _is_patients(root: Path) -> bool:
    return root.is_dir() and any(list_images(folder) for folder in _subfolders(root)[:4])


def _find_patients(root: Path, settings: Data) -> list[Case]:
    cases = []
    for folder in _subfolders(root):
        files = list_images(folder)
        labels = [file for file in files if file.match(settings.label_pattern)]
        label = labels[0] if len(labels) == 1 else None
        try:
            images = pick_channels(folder, settings, label)
        except DataError:
            images = ()  # reported by the check, case by case
        cases.append(Case(make_id(folder.name), images, label))
    return cases


def _subfolders(root: Path) -> list[Path]:
    return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _is_bids(root: Path) -> bool:
    return root.is_dir() and (root / "derivatives").is_dir() and any(root.glob("sub-*"))


def _find_bids(root: Path, settings: Data) -> list[Case]:
    cases = []
    labels = sorted(
        [*root.glob("derivatives/**/sub-*_dseg.nii*"), *root.glob("derivatives/**/sub-*_mask.nii*")]
    )
    for subject in sorted(root.glob("sub-*")):
        for folder in sorted({file.parent for file in subject.rglob("*.nii*")}):
            where = folder.relative_to(root)
            session = [part for part in where.parts if part.startswith(("sub-", "ses-"))]
            own = [label for label in labels if set(session) <= set(label.name.split("_"))]
            try:
                images = pick_channels(folder, settings)
            except DataError:
                continue  # another modality's folder
            name = make_id("_".join(session))
            cases.append(Case(name, images, own[0] if len(own) == 1 else None, group=make_id(session[0])))
    return cases


def read_table(path: Path, channels: list[str]) -> list[Case]:
    """Read a CSV or JSON list of cases: id, <channel names>, [label], [group].

    Raises:
        DataError: Missing columns or paths that leave the table's folder.
    """
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    else:
        rows = json.loads(path.read_text(encoding="utf-8"))
    cases = []
    for number, row in enumerate(rows, start=1):
        if missing := [key for key in ["id", *channels] if not row.get(key)]:
            raise DataError(
                f"row {number} lacks {', '.join(missing)}",
                hint=f"columns: id, {', '.join(channels)}, [label], [group]",
                code="TABLE_INVALID",
            )
        images = tuple(dict.fromkeys(confine(path.parent, row[channel]) for channel in channels))
        label = confine(path.parent, row["label"]) if row.get("label") else None
        cases.append(
            Case(make_id(str(row["id"])), images, label, make_id(str(row.get("group") or row["id"])))
        )
    return cases


def is_table(path: Path) -> bool:
    """Say whether `path` is a CSV or JSON file."""
    return path.is_file() and path.suffix in {".csv", ".json"}


LAYOUTS: dict[str, Layout] = {
    "table": Layout(is_table, lambda root, settings: read_table(root, list(settings.channels))),
    "msd": Layout(_is_msd, _find_msd),
    "nnunet": Layout(_is_nnunet, _find_nnunet),
    "folders": Layout(lambda root: _two_folders(root) is not None, _find_folders),
    "bids": Layout(_is_bids, _find_bids),
    "patients": Layout(_is_patients, _find_patients),
}
