"""The review of masks without a RUN: those that `infer` or another tool wrote, with references or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg import __version__
from medseg.core.errors import ConfigError, DataError
from medseg.core.files import read_if_whole, sha256_of_file
from medseg.core.volume import Labels
from medseg.data.cases import make_id
from medseg.io import stem
from medseg.metrics import hide_ignored
from medseg.tracking.review import Entry, Scene
from medseg.workflows.pairs import NO_PARTNER
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.review_sources import (
    UNSHOWN,
    Images,
    Subject,
    find_ignored,
    index_masks,
    list_definitions,
    list_failed,
    make_scene,
    read_mask,
    read_rows,
    read_sidecar,
)
from medseg.workflows.sidecar import find_model, measure

Names = dict[int, str]
UNCOMPARED = "not compared: `medseg evaluate` says why"
INSTANCES = "instances"  # what `evaluate --instances` calls its one structure


@dataclass(frozen=True)
class _Source:
    predicted: Mapping[str, Path]
    reference: Mapping[str, Path]
    images: Images
    is_instances: bool = False
    ignore_label: int | None = None

    def load(self, case_id: str) -> Scene:
        """Return what there is of a case.

        Raises:
            DataError: PREDICTION_MISSING, or what reading it raises.
        """
        truth = read_mask(self.reference[case_id]) if case_id in self.reference else None
        like = None if truth is None else truth.geometry
        found = read_mask(self.predicted[case_id], like) if case_id in self.predicted else None
        if truth is None and found is None:
            raise DataError("there is no mask of this case", hint="predict it too", code="PREDICTION_MISSING")
        if self.ignore_label is not None and truth is not None and found is not None:
            found = replace(found, array=hide_ignored(truth.array, found.array, self.ignore_label)[1])
        if self.is_instances:
            truth, found = truth and _flatten(truth, self.ignore_label), found and _flatten(found)
        image = self.images.read(case_id) if case_id in self.images else None
        note = "" if image else ("No image of this id was given." if self.images else UNSHOWN)
        return make_scene(found, truth, image, note)


def _flatten(mask: Labels, ignore_label: int | None = None) -> Labels:
    """Return all objects as the one structure that `evaluate --instances` names; ignored voxels are 2."""
    flat = (mask.array != 0).astype(np.uint8)
    if ignore_label is not None:
        flat[mask.array == ignore_label] = 2
    return Labels(flat, mask.geometry)


def gather_masks(folder: Path, images: Path | None, key_file: Path, report: Report) -> Subject:
    """Return what a folder of masks has to show: what sidecars say, else what the masks hold.

    Args:
        folder: OUT of `infer`, or masks of any tool.
        images: The scans.
        key_file: The site's secret for pseudonyms.
        report: Gets a result for a mask that cannot be read.

    Raises:
        DataError: NO_CASES.
    """
    masks = index_masks(folder)
    reports = [read_if_whole(path) for path in sorted(folder.glob("report*.json"))]
    failed = {name: why for told in reports for name, why in list_failed(told).items()}
    if not masks and not failed:
        raise DataError(
            "there is no mask in this folder", hint="give a run or a folder of masks", code="NO_CASES"
        )
    sidecars = {name: read_sidecar(folder / f"{name}.json") for name in masks}
    labels: Names = {}
    entries = []
    for name in sorted(masks.keys() | failed.keys()):
        if name not in masks:
            entries.append(Entry(name, error=failed[name]))
            continue
        entries.append(_describe(name, masks[name], sidecars[name], labels, report))
    source = _Source(masks, {}, Images(images, None, key_file))
    models = sorted({str(tree["model_sha256"]) for tree in sidecars.values() if "model_sha256" in tree})
    versions = sorted(
        {
            str(tree["versions"]["medseg"])
            for tree in sidecars.values()
            if "medseg" in tree.get("versions", {})
        }
    )
    facts = [("Masks", f"{len(masks)}"), *(("SHA-256 of the model", model) for model in models)]
    facts.append(
        ("medseg", f"{', '.join(versions) or 'another tool'} made the masks, {__version__} this page")
    )
    note = "No reference: nothing here says how good the masks are. Outliers are so among these masks only."
    return Subject("Masks", entries, dict(sorted(labels.items())), source.load, facts, [note])


def _describe(name: str, path: Path, sidecar: Mapping[str, Any], labels: Names, report: Report) -> Entry:
    """Return a case's entry, and add the labels it has to `labels`.

    The mask is read only where no sidecar tells volumes: of a picture none does, since pixels have no size.
    """
    trust = sidecar.get("trust") or {}
    about: dict[str, Any] = {"reasons": trust.get("reasons", []), "p": trust.get("outlier", {}).get("p")}
    rows = {int(value): row for value, row in sidecar.get("labels", {}).items()}
    labels |= {value: row["name"] for value, row in rows.items()}
    told = {row["name"]: row["volume_ml"] for row in rows.values() if row["volume_ml"] is not None}
    if told:
        return Entry(name, volumes_ml=told, **about)
    try:
        mask = read_mask(path)
    except DataError as error:
        report.add(CaseResult.of_error(name, error))
        return Entry(name, error=f"{error.code}: {error.message}")
    names = {int(value): rows.get(int(value), {}).get("name", str(value)) for value in np.unique(mask.array)}
    names.pop(0, None)
    labels |= names
    told = {row["name"]: row["volume_ml"] for row in measure(mask, names).values()}
    volumes = {title: ml for title, ml in told.items() if ml is not None}
    return Entry(name, volumes_ml=volumes, found=set(names.values()), **about)


def gather_evaluation(
    folder: Path, reference: Path | None, predicted: Path | None, images: Path | None, key_file: Path
) -> Subject:
    """Return what an evaluation has to show; without the folders of masks, the table alone.

    Args:
        folder: OUT of `evaluate`.
        reference: As it was given to `evaluate`, a folder or a file.
        predicted: As it was given to `evaluate`.
        images: The scans.
        key_file: The site's secret for pseudonyms.

    Raises:
        ConfigError: INPUT_MISSING or SCORES_INVALID.
    """
    rows, patients = read_rows(folder / "cases.csv")
    labels: Names = {}
    for row in (row for found in rows.values() for row in found):
        if row["label"] != "region":
            labels.setdefault(int(row["label"]), row["name"])
    found_masks, truths = _index_pairs(predicted, reference)
    if images is not None and not (found_masks or truths):
        raise ConfigError(
            "images without masks show nothing",
            hint="give --reference and --predicted too",
            code="INPUT_MISSING",
        )
    missing = {
        name: UNCOMPARED if name in found_masks else f"PREDICTION_MISSING: {NO_PARTNER}"
        for name in truths.keys() - rows.keys()
    }
    entries = [
        Entry(name, rows.get(name, []), error=missing.get(name, "")) for name in sorted(rows.keys() | missing)
    ]
    is_instances = list(labels.values()) == [INSTANCES]
    metrics = read_if_whole(folder / "metrics.json")
    ignored = find_ignored(metrics)
    source = _Source(found_masks, truths, Images(images, None, key_file), is_instances, ignored)
    note = "" if found_masks and truths else "Give --reference, --predicted and --images to see the cases."
    return Subject(
        "Evaluation",
        entries,
        dict(sorted(labels.items())),
        source.load,
        _list_facts(folder, rows, patients, metrics, found_masks),
        [note] if note else [],
        metrics=metrics,
        patients=patients,
        ignore_label=ignored,
    )


def _list_facts(
    folder: Path,
    rows: Mapping[str, Any],
    patients: Mapping[str, str],
    metrics: Mapping[str, Any],
    masks: Mapping[str, Path],
) -> list[tuple[str, str]]:
    """Return what was evaluated, and how."""
    people = len({patients.get(name, f"case {name}") for name in rows})
    told = f"{len(rows)} of {people} patients" if patients else f"{len(rows)}"
    model = find_model(masks)
    return [
        ("Cases", told),
        *list_definitions(metrics),
        ("SHA-256 of cases.csv", sha256_of_file(folder / "cases.csv")),
        *([("SHA-256 of the model", model)] if model else []),
        ("medseg", f"{__version__} made this page"),
    ]


def _index_pairs(
    predicted: Path | None, reference: Path | None
) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
    """Return id -> mask and id -> reference, as `evaluate` pairs them: two files are one case."""
    if predicted and reference and predicted.is_file() and reference.is_file():
        name = make_id(stem(predicted))
        return {name: predicted}, {name: reference}
    return index_masks(predicted) if predicted else {}, index_masks(reference) if reference else {}
