"""What a review shows, and where each case's image and masks come from.

A `Subject` is a RUN folder (`review_run`), a folder of masks, or an evaluation with its masks
(`review_masks`).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg.core.errors import ConfigError, DataError, GeometryError
from medseg.core.files import read_if_whole
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume, canonical_axes, grid_on_axes, view_axes
from medseg.data.cases import Case, make_id, pseudonymize, read_key
from medseg.data.inputs import find_inputs
from medseg.data.layouts import find_cohort, list_masks
from medseg.data.loading import load_image
from medseg.data.settings import Channel as ChannelSettings
from medseg.data.settings import Data
from medseg.io import read_labels, read_volume, stem
from medseg.metrics.table import STATES
from medseg.tracking.review import Channel, Entry, Scene

NUMBERS = ("dice", "iou", "precision", "recall", "nsd", "hd95_mm", "assd_mm")
VOLUMES = ("volume_reference_ml", "volume_predicted_ml", "volume_error_ml")
UNSHOWN = "The page shows masks only: no image was given."


@dataclass
class Subject:
    """What is reviewed.

    Args:
        title: On top.
        entries: All cases.
        labels: Stored value -> name.
        load: Case id -> its scene; raises DataError.
        facts: (what, text) of provenance.
        notes: Sentences below the verdict.
        metrics: Of metrics.json; {} where there is no reference.
        patients: Case id -> whose it is.
        ignore_label: Value of the references that counts as nothing.
    """

    title: str
    entries: Sequence[Entry]
    labels: Mapping[int, str]
    load: Callable[[str], Scene]
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)
    ignore_label: int | None = None


def read_rows(path: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Return the rows of a cases.csv by case id, without its empty cells, and case id -> patient if it says.

    Raises:
        ConfigError: SCORES_INVALID: another table of cases, such as that of `medseg check`.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    patients: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                found.setdefault(row["id"], []).append(_read_row(row))
                if row.get("patient"):
                    patients[row["id"]] = row["patient"]
    except (KeyError, ValueError, csv.Error) as error:
        raise ConfigError(
            "cases.csv here holds no scores", hint="give a run or an evaluation", code="SCORES_INVALID"
        ) from error
    return found, patients


def _read_row(row: Mapping[str, str | None]) -> dict[str, Any]:
    """Return what the page shows of a row; KeyError or ValueError of one that `evaluate` did not write."""
    label, state = row["label"] or "", row["state"]
    if state not in STATES or not (label == "region" or label.isdecimal()):
        raise ValueError(f"no row of scores: label {label}, state {state}")
    numbers = {name: _to_number(row.get(name)) for name in (*NUMBERS, *VOLUMES)}
    told = {name: number for name, number in numbers.items() if number is not None}
    return {"label": label, "name": row["name"] or label, "state": state, **told}


def list_definitions(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of how was measured: the options of metrics.json, and the value it ignored."""
    told = _read_definitions(metrics)
    options = {name: chosen for name, chosen in told["options"].items() if isinstance(chosen, dict)}
    words = [
        f"{name}: "
        + ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in sorted(chosen.items())
        )
        for name, chosen in sorted(options.items())
    ]
    ignored = find_ignored(metrics)
    return [
        *([("Metric options", "; ".join(words))] if words else []),
        *([] if ignored is None else [("Ignored value of the references", f"{ignored}")]),
    ]


def find_tolerance(metrics: Mapping[str, Any]) -> float | None:
    """Return what metrics.json says of the distance that NSD accepts; None where it does not."""
    chosen = _read_definitions(metrics)["options"].get("nsd")
    told = chosen.get("tolerance_mm") if isinstance(chosen, dict) else None
    return told if isinstance(told, int | float) else None


def find_ignored(metrics: Mapping[str, Any]) -> int | None:
    """Return what metrics.json says of the value that the references do not count."""
    told = _read_definitions(metrics).get("ignore_label")
    return told if isinstance(told, int) else None


def are_pictures(metrics: Mapping[str, Any]) -> bool:
    """Whether metrics.json says that all cases were pictures: only then does it tell of units."""
    return "units" in _read_definitions(metrics)


def _read_definitions(metrics: Mapping[str, Any]) -> dict[str, Any]:
    told = metrics.get("definitions")
    definitions = told if isinstance(told, dict) else {}
    options = definitions.get("options")
    return {**definitions, "options": options if isinstance(options, dict) else {}}


def list_failed(report: Mapping[str, Any]) -> dict[str, str]:
    """Return case id -> "CODE: message" of a report.json; none of one that is not ours."""
    told = report.get("cases")
    cases = [case for case in told if isinstance(case, dict)] if isinstance(told, list) else []
    return {
        str(case.get("id")): f"{case.get('code')}: {case.get('message')}"
        for case in cases
        if case.get("status") in {"rejected", "failed"}
    }


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the sidecar that `infer` wrote; {} of none, and of another tool's JSON of this name."""
    tree = read_if_whole(path)
    labels, trust = tree.get("labels"), tree.get("trust")
    if not isinstance(tree.get("versions"), dict) or not isinstance(labels, dict):
        return {}
    is_ours = isinstance(trust, dict | None) and all(
        key.isdecimal() and isinstance(row, dict) and {"name", "volume_ml"} <= row.keys()
        for key, row in labels.items()
    )
    return tree if is_ours else {}


def _to_number(text: str | None) -> float | None:
    if not text:
        return None
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no score")
    return number


def index_masks(folder: Path) -> dict[str, Path]:
    """Return id -> mask of a folder; maps of probabilities are none.

    Raises:
        ConfigError: INPUT_MISSING.
        DataError: DUPLICATE_ID.
    """
    if not folder.is_dir():
        raise ConfigError("there is no such folder of masks", hint="check the path", code="INPUT_MISSING")
    found: dict[str, Path] = {}
    for path in list_masks(folder):
        if (name := make_id(stem(path))) in found:
            raise DataError(f"two masks have the id `{name}`", hint="remove one of them", code="DUPLICATE_ID")
        found[name] = path
    return found


class Images:
    """The scans that `--images` names, by case id."""

    def __init__(self, root: Path | None, data: Data | None, key_file: Path) -> None:
        """List them; none where `root` is None.

        Raises:
            ConfigError: Nothing there.
            DataError: No case, or ids are not unique.
        """
        self._data = data or Data(channels={"image": ChannelSettings()}, labels={1: "structure"})
        self._is_known = data is not None
        self._cases = {} if root is None else _find_cases(root, self._data, key_file)

    def __contains__(self, case_id: str) -> bool:
        """Whether there is a scan of this id."""
        return case_id in self._cases

    def __bool__(self) -> bool:
        """Whether any were given."""
        return bool(self._cases)

    def read(self, case_id: str) -> tuple[Volume, list[Channel]]:
        """Return a scan and what its channels are.

        Raises:
            DataError: It cannot be read.
        """
        case = self._cases[case_id]
        if self._is_known:
            volume = load_image(case, len(self._data.channels))
            units = ["HU" if c.normalize == "ct" else "" for c in self._data.channels.values()]
            return volume, [
                Channel(name, unit) for name, unit in zip(self._data.channels, units, strict=True)
            ]
        volume = read_volume(case.images[0]) if case.images else load_image(case, 1)  # which raises why
        unit = "HU" if is_like_ct(volume) else ""
        names = ["image"] if len(volume.array) == 1 else [f"channel {n}" for n in range(len(volume.array))]
        return volume, [Channel(name, unit) for name in names]


def is_like_ct(volume: Volume) -> bool:
    """Whether grey values are taken for Hounsfield units: air lies far below water, at 0."""
    array = volume.array
    return len(array) == 1 and not volume.geometry.is_picture and -4096 <= float(array.min()) <= -500


def _find_cases(root: Path, data: Data, key_file: Path) -> dict[str, Case]:
    def key() -> bytes:
        return read_key(key_file)

    try:
        cases = find_cohort(root, data, key)[1]
    except ConfigError as error:
        if error.code != "LAYOUT_UNKNOWN":
            raise
        cases = find_inputs([root], data, key)
    found = {case.id: case for case in cases}
    if key_file.exists():  # a run with --pseudonymize calls the same scans otherwise
        found |= {case.id: case for case in pseudonymize(cases, key_file)}
    return found


def read_mask(path: Path, like: Geometry | None = None) -> Labels:
    """Return a mask, refused where it does not lie on the grid of `like`.

    Raises:
        DataError: It cannot be read, or GRID_MISMATCH.
    """
    labels = read_labels(path)
    if like is not None and (difference := like.differs_from(labels.geometry)):
        raise GeometryError(
            f"the masks of this case lie on different grids: {difference}",
            hint="resample one onto the other's grid first",
            code="GRID_MISMATCH",
        )
    return labels


def make_scene(
    predicted: Labels | None,
    reference: Labels | None,
    image: tuple[Volume, Sequence[Channel]] | None,
    note: str = "",
) -> Scene:
    """Return a scene on canonical axes, as views; a picture keeps its own axes.

    Raises:
        GeometryError: GRID_MISMATCH.
    """
    geometry = next(labels.geometry for labels in (predicted, reference) if labels is not None)
    if image is not None and (difference := geometry.differs_from(image[0].geometry)):
        raise GeometryError(
            f"image and mask lie on different grids: {difference}",
            hint="give the images that the masks were made of",
            code="GRID_MISMATCH",
        )

    def turn(array: NDArray[Any]) -> NDArray[Any]:
        return array if geometry.is_picture else view_axes(array, canonical_axes(geometry))

    return Scene(
        geometry if geometry.is_picture else grid_on_axes(geometry, canonical_axes(geometry)),
        None if predicted is None else turn(predicted.array),
        None if reference is None else turn(reference.array),
        None if image is None else turn(image[0].array),
        channels=() if image is None else image[1],
        note=note,
    )
