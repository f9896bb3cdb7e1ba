"""stats: volumes, components, positions and intensities of any masks, whatever tool made them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.errors import ConfigError, DataError, GeometryError
from medseg.core.files import make_folder, write_csv
from medseg.core.volume import Labels, Volume
from medseg.data.cases import make_id
from medseg.data.layouts import list_masks
from medseg.io import read_labels, read_volume, stem
from medseg.metrics.structure import (
    DEFINITIONS,
    EMPTY,
    find_structures,
    measure_intensities,
    measure_structure,
)
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report

CHANNEL = re.compile(r"_\d{4}$")  # nnU-Net's names of channels
Row = dict[str, Any]


def measure_masks(
    masks: Mapping[str, Path],
    *,
    progress: Progress,
    report: Report,
    images: Mapping[str, Path] | None = None,
    channel: int = 0,
    names: Mapping[int, str] | None = None,
    out: Path | None = None,
) -> None:
    """Measure every label of every mask; one that cannot be is reported and the others go on.

    Args:
        masks: Case id -> label map.
        progress: Told every case, and a summary of each label.
        report: Gets the cases, and "stats".
        images: Case id -> image whose values are described, None for none.
        channel: Of the image.
        names: Labels that are measured -> name; None: all that occur, named by their number.
        out: OUT/stats.{csv,json}, if any.
    """
    cases: dict[str, dict[int, Row]] = {}
    with progress.track("stats", len(masks)) as advance:
        for name, path in masks.items():
            try:
                cases[name] = _measure_case(name, path, images, channel)
                report.add(CaseResult(name, "done"))
            except DataError as error:
                report.add(CaseResult.of_error(name, error))
            advance(name)
    values = sorted(names or {value for case in cases.values() for value in case})
    known = {value: (names or {}).get(value, str(value)) for value in values}
    blank = {**EMPTY, **(measure_intensities(np.empty(0)) if images is not None else {})}
    rows = [
        {"id": name, "label": value, "name": known[value], **_round(case.get(value, blank))}
        for name, case in cases.items()
        for value in values
    ]
    labels = {str(value): {"name": known[value], **_summarise(rows, value)} for value in values}
    report.extra["stats"] = {"labels": labels, "rows": rows, "definitions": DEFINITIONS}
    for value, row in labels.items():
        progress.say(
            f"label {value} {row['name'] if row['name'] != value else ''}".rstrip()
            + f": in {row['n']} of {len(cases)} cases, volume {_word(row['volume_ml'])} ml, mean components "
            f"{row['components_mean']}"
        )
    if out is not None:
        make_folder(out)
        write_csv(out / "stats.csv", rows, ["id", "label", "name", *blank])
        report.write(out / "stats.json")


def find_files(place: Path, what: str) -> dict[str, Path]:
    """Return case id -> file, of one file or of those in a folder; maps of `infer` are no masks.

    Raises:
        ConfigError: INPUT_MISSING.
        DataError: NO_CASES or DUPLICATE_ID.
    """
    if not place.exists():
        raise ConfigError(
            f"there is no file or folder of {what}", hint="check the path", code="INPUT_MISSING"
        )
    files = [place] if place.is_file() else list_masks(place)
    if not files:
        raise DataError(f"the folder holds no {what}", hint="see docs/data.md for formats", code="NO_CASES")
    return _index((make_id(stem(path)), path) for path in files)


def find_images(place: Path, channel: int) -> dict[str, Path]:
    """Return case id -> image; of `<id>_0000.ext`, `<id>_0001.ext`, ... the one of the channel.

    Raises:
        ConfigError: INPUT_MISSING.
        DataError: NO_CASES or DUPLICATE_ID.
    """
    found, mark = find_files(place, "images"), f"_{channel:04}"
    return _index(
        (name.removesuffix(mark), path)
        for name, path in found.items()
        if name.endswith(mark) or not CHANNEL.search(name)
    )


def _index(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in files:
        if name in found:
            raise DataError(f"two files have the id `{name}`", hint="remove one of them", code="DUPLICATE_ID")
        found[name] = path
    return found


def _measure_case(name: str, path: Path, images: Mapping[str, Path] | None, channel: int) -> dict[int, Row]:
    labels = read_labels(path)
    image = None
    if images is not None:
        if name not in images:
            raise DataError("no image has this id", hint="see --images", code="IMAGE_MISSING")
        image = read_volume(images[name])
        if difference := labels.geometry.differs_from(image.geometry):
            raise GeometryError(
                f"mask and image lie on different grids: {difference}",
                hint="resample the mask to the image first",
                code="GRID_MISMATCH",
            )
        if CHANNEL.search(stem(images[name])):
            channel = 0  # a file of its own
        if channel >= len(image.array):
            raise DataError(
                f"the image has {len(image.array)} channels, none of number {channel}",
                hint="they count from 0: see --channel",
                code="CHANNELS",
            )
    return {
        value: _measure_label(labels, image, value, box, channel)
        for value, box in find_structures(labels.array)
    }


def _measure_label(
    labels: Labels, image: Volume | None, value: int, box: tuple[slice, ...], channel: int
) -> Row:
    mask = labels.array[box] == value
    row = measure_structure(mask, [side.start for side in box], labels.geometry)
    if image is None:
        return row
    return {**row, **measure_intensities(image.array[channel][box][mask])}


def _summarise(rows: Sequence[Row], value: int) -> Row:
    """Return how many cases hold a label, and its volume over those."""
    held = [row for row in rows if row["label"] == value and row["voxels"]]
    volumes = [row["volume_ml"] for row in held]
    parts = [row["components"] for row in held]
    return {
        "n": len(held),
        "volume_ml": _round(
            {
                "mean": float(np.mean(volumes)) if held else None,
                "sd": float(np.std(volumes, ddof=1)) if len(held) > 1 else None,
                "median": float(np.median(volumes)) if held else None,
                "min": min(volumes, default=None),
                "max": max(volumes, default=None),
            }
        ),
        "components_mean": round(float(np.mean(parts)), 3) if held else None,
    }


def _word(volume_ml: Mapping[str, float | None]) -> str:
    if volume_ml["median"] is None:
        return "-"
    return f"{volume_ml['median']:.4g} (median; {volume_ml['min']:.4g} to {volume_ml['max']:.4g})"


def _round(row: Mapping[str, Any]) -> Row:
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}
