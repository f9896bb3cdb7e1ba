"""to-dicom: an existing mask -> DICOM objects that belong to the series it was drawn on."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medseg.core.errors import ConfigError, DataError, GeometryError
from medseg.core.files import make_folder, read_if_whole, sha256_of, sweep
from medseg.core.geometry import Geometry
from medseg.core.select import suggest
from medseg.core.volume import Labels
from medseg.data.cases import make_id, read_key, require_path
from medseg.data.checks import hash_image
from medseg.data.studies import Wanted, name_series, resolve_series
from medseg.io import is_image, read_labels, stem
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.scans import refuse_inputs_in
from medseg.workflows.sidecar import DICOM_ID, find_versions, hash_outputs, is_done, measure, write_sidecar

if TYPE_CHECKING:
    from medseg.io.dicom import Index, Scan

OBJECTS = {"dicom-seg": ".seg.dcm", "rtstruct": ".rtstruct.dcm"}
SIDECAR = ".dicom.json"  # <id>.json beside a mask tells of the mask
SEG_TYPES = ("binary", "labelmap")


@dataclass(frozen=True)
class Export:
    """What is to be written.

    Args:
        formats: Keys of `OBJECTS`.
        names: Label value -> name; empty: those of the sidecar beside the mask.
        seg_type: How a DICOM SEG stores its segments: one of `SEG_TYPES`.
    """

    formats: tuple[str, ...] = ("dicom-seg",)
    names: Mapping[int, str] = field(default_factory=dict)
    seg_type: str = "binary"


def to_dicom(
    mask: Path,
    source: Path,
    out: Path,
    export: Export,
    request: Wanted,
    *,
    progress: Progress,
    report: Report,
    key_file: Path,
) -> None:
    """Write OUT/<id>.seg.dcm and OUT/<id>.rtstruct.dcm, OUT/<id>.dicom.json and OUT/report.json.

    Args:
        mask: A label map; its id is its stem.
        source: The DICOM folder whose series it was drawn on.
        out: OUT.
        export: Formats and names.
        request: Which series, and how it was read (a repaired series only fits if it is repaired again).
        progress: One step.
        report: Gets the result.
        key_file: The site's secret: a mask that is called as its series' id needs no --series.

    Raises:
        ConfigError: INPUT_MISSING, FORMAT_UNKNOWN, OUT_HOLDS_INPUT, SERIES_UNKNOWN or VOLUME_UNKNOWN.
    """
    for path in (mask, source):
        require_path(path)
    if not is_image(mask):
        raise ConfigError(
            "the mask is no file of a known kind", hint="see `medseg list formats`", code="FORMAT_UNKNOWN"
        )
    refuse_inputs_in(out, [mask, source])
    case_id, started = make_id(stem(mask)), time.perf_counter()
    make_folder(out)
    sweep(out)
    with progress.track("to-dicom", 1) as advance:
        try:
            told = read_if_whole(mask.with_name(f"{stem(mask)}.json"))
            own = str(told.get("id", ""))  # it stays where a mask and its sidecar were renamed
            name = own if DICOM_ID.fullmatch(own) else case_id
            scan = find_source(source, name, request, key_file)
            result = export_mask(mask, scan, out, export, request)
        except DataError as error:
            result = CaseResult.of_error(case_id, error)
            for ending in (*OBJECTS.values(), SIDECAR):  # of an earlier run
                (out / f"{case_id}{ending}").unlink(missing_ok=True)
        result.seconds = time.perf_counter() - started
        report.add(result)
        advance(case_id)
    report.write(out / "report.json")


def find_source(source: Path, name: str, request: Wanted, key_file: Path) -> Scan:
    """Return the scan that a mask belongs to: the one asked for, the one with the mask's id, or the only one.

    Args:
        source: A DICOM folder.
        name: The mask's id. One that is the id of a scan holds for no other, unless the series is asked for.
        request: Which series, and what may be repaired.
        key_file: The site's secret.

    Raises:
        DataError: LABEL_REFERENCE, SERIES_AMBIGUOUS, NO_CASES, or why the series is refused.
    """
    from medseg.io.dicom import choose_scan, choose_scans, find_series

    index = find_series(source, request.options)
    if request.series is None and index.series:
        if match := DICOM_ID.fullmatch(name):
            volume = request.volume or int(match[2] or 0) or None
            return _find_named(index, match[1], name, volume, read_key(key_file))
        return choose_scan(index.series, volume=request.volume)
    asked = resolve_series(index.series, request.series, lambda: read_key(key_file))
    return choose_scans(index, series=asked, volume=request.volume)[0]


def _find_named(index: Index, series_id: str, scan_name: str, volume: int | None, secret: bytes) -> Scan:
    from medseg.io.dicom import choose_scan, scan_id

    for series in index.series:
        if series.is_image and name_series(series.first, secret) == series_id:
            scan = choose_scan([series], volume=volume)
            if scan_id(scan, secret) == scan_name:
                return scan
    raise DataError(
        "the mask's id is that of a scan which is not there",
        hint="give the folder of its scan as --source, or --series N if another one is meant",
        code="LABEL_REFERENCE",
    )


def export_mask(mask: Path, scan: Scan, out: Path, export: Export, request: Wanted) -> CaseResult:
    """Write the objects of one mask, unless they are there already.

    Raises:
        DataError: The mask is no label map, has labels that DICOM cannot hold, or lies on another grid.
    """
    case_id = make_id(stem(mask))
    outputs = [f"{case_id}{OBJECTS[name]}" for name in export.formats]
    labels = read_labels(mask)
    check_grid(labels, scan)
    told = read_if_whole(mask.with_name(f"{stem(mask)}.json"))
    names = name_labels(labels, export.names or read_names(told))
    identity: dict[str, Any] = {
        "input_sha256": sha256_of([hash_image(mask), hash_image(scan)]),
        "model_sha256": told.get("model_sha256"),
        "settings": {**request.settings, "seg_type": export.seg_type},
        "versions": find_versions("numpy", "pydicom", "highdicom"),
        "labels": measure(labels, names),
    }
    sidecar = f"{case_id}{SIDECAR}"
    told_as = sidecar.removesuffix(".json")
    if is_done(out, told_as, outputs, identity):
        return CaseResult(case_id, "skipped", outputs=[*outputs, sidecar])
    others = [f"{case_id}{ending}" for kind, ending in OBJECTS.items() if kind not in export.formats]
    kept = [name for name in others if is_done(out, told_as, [name], identity)]
    for name in (sidecar, *(name for name in others if name not in kept)):  # objects of another mask
        (out / name).unlink(missing_ok=True)
    for kind, output in zip(export.formats, outputs, strict=True):
        _write_object(out / output, labels, scan, replace(export, formats=(kind,), names=names), told)
    warnings = list(tell_labels(labels, export.names))
    write_sidecar(
        out / sidecar,
        identity,
        labels.geometry,
        outputs=hash_outputs(out, [*outputs, *kept]),
        labels=identity["labels"],
        warnings=warnings,
        id=case_id,
    )
    return CaseResult(case_id, "done", warnings=warnings, outputs=[*outputs, sidecar])


def _write_object(path: Path, labels: Labels, scan: Scan, export: Export, told: Mapping[str, Any]) -> None:
    """Write a mask in the only format of `export`; `told` is the sidecar beside the mask."""
    maker = find_maker(told)
    if export.formats == ("rtstruct",):
        from medseg.io.dicom.labels.rtstruct_write import write_rtstruct

        write_rtstruct(path, labels, scan, export.names, algorithm=maker)
    else:
        from medseg.io.dicom.labels.seg_write import write_seg

        how: Literal["labelmap", "binary"] = "labelmap" if export.seg_type == "labelmap" else "binary"
        write_seg(path, labels, scan, export.names, kind=how, algorithm=maker)


def tell_labels(labels: Labels, named: Collection[int]) -> Iterator[tuple[str, str]]:
    """Yield the warnings of a mask without a label, or without one that was named by hand."""
    if not labels.array.any():
        yield "MASK_EMPTY", "no finding: the mask holds background only"
    elif unused := sorted(set(named) - set(np.unique(labels.array).tolist())):
        values = ", ".join(map(str, unused))
        yield "LABEL_UNUSED", f"--labels names {values}, of which the mask holds no voxel"


def check_grid(labels: Labels, scan: Scan) -> None:
    """Refuse a mask that lies on another grid than the scan, in whatever order of axes.

    Raises:
        GeometryError: GRID_MISMATCH, with both grids.
    """
    from medseg.io.dicom.labels.slices import reorder

    try:
        reorder(labels.array, labels.geometry, scan.geometry)
    except GeometryError as error:
        own, other = (_show(grid) for grid in (labels.geometry, scan.geometry))
        text = f"{error.message}; the mask has {own}, the scan {other}"
        raise GeometryError(text, hint=error.hint, code=error.code) from error


def _show(grid: Geometry) -> str:
    shape, spacing = " x ".join(map(str, grid.shape)), " x ".join(f"{step:.4g}" for step in grid.spacing_mm)
    return f"{shape} voxels of {spacing} mm from {' '.join(f'{x:.4g}' for x in grid.affine[:3, 3])}"


def find_maker(told: Mapping[str, Any]) -> tuple[str, str]:
    """Return name and version of the algorithm that made a mask: medseg's where its sidecar names a model."""
    versions = told.get("versions")
    if told.get("model_sha256") and isinstance(versions, dict):
        return "medseg", str(versions.get("medseg", "unknown"))
    return "unknown", "unknown"


def read_names(told: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of labels that the sidecar beside a mask tells; none where there is no sidecar."""
    listed = told.get("labels")
    if not isinstance(listed, dict):
        return {}
    return {
        int(value): entry["name"]
        for value, entry in listed.items()
        if value.isdecimal() and isinstance(entry, dict) and isinstance(entry.get("name"), str)
    }


def name_labels(labels: Labels, known: Mapping[int, str]) -> dict[int, str]:
    """Return a name for every label of a mask, and for those that are known but not in it."""
    values = [int(value) for value in np.unique(labels.array) if value]
    unnamed = {value: f"label {value}" for value in values if value not in known}
    return dict(sorted((dict(known) | unnamed or {1: "label 1"}).items()))


def parse_names(text: str, known: Collection[str], option: str = "--format") -> tuple[str, ...]:
    """Return the names of a list such as `dicom-seg,rtstruct`, which an option gave.

    Raises:
        ConfigError: UNKNOWN_NAME.
    """
    names = [part.strip() for part in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"{option} knows no `{unknown[0]}`", hint=suggest(unknown[0], known), code="UNKNOWN_NAME"
        )
    return tuple(dict.fromkeys(names))


def parse_labels(text: str) -> dict[int, str]:
    """Return the names of `--labels 1=liver,2=tumour`.

    Raises:
        ConfigError: Not of this form, a value below 1, or one that is named twice.
    """
    found: dict[int, str] = {}
    for part in text.split(","):
        value, _, name = (piece.strip() for piece in part.partition("="))
        if not (value.isdecimal() and int(value) > 0 and name) or int(value) in found:
            raise ConfigError("--labels is not a list of numbers and names", hint="--labels 1=liver,2=tumour")
        found[int(value)] = name
    return found
