"""Cohorts listed in a CSV or JSON table: id, <channel names>, [label], [group].

An image may be a folder of DICOM files, where the channel's rule picks the scan; a label a DICOM file.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import DataError
from medseg.data.cases import Case, Key, confine, distinct_channels, make_id, no_key
from medseg.data.series import list_fits, require_distinct, settle_one
from medseg.data.settings import Data
from medseg.data.studies import Wanted, name_patient, read_index
from medseg.io import is_image, looks_like_dicom

if TYPE_CHECKING:
    from medseg.io.dicom.labels.label import DicomLabel
    from medseg.io.dicom.scan import Scan


def is_table(path: Path) -> bool:
    """Say whether `path` is a CSV or JSON file."""
    return path.is_file() and path.suffix in {".csv", ".json"}


def read_table(path: Path, settings: Data, key: Key = no_key, wanted: Wanted | None = None) -> list[Case]:
    """Read a CSV or JSON list of cases: id, <channel names>, [label], [group].

    Without a group, DICOM scans count as their patient's, as they do in a folder.

    Args:
        path: The table.
        settings: Channels and labels.
        key: For the pseudonyms of patients.
        wanted: What the user says of DICOM inputs.

    Raises:
        DataError: Missing columns or paths that leave the table's folder.
    """
    cases, channels = [], list(settings.channels)
    for number, row in enumerate(_read_rows(path), start=1):
        if missing := [key for key in ["id", *channels] if row.get(key) in (None, "")]:
            raise DataError(
                f"row {number} lacks {', '.join(missing)}",
                hint=f"columns: id, {', '.join(channels)}, [label], [group]",
                code="TABLE_INVALID",
            )
        where = partial(confine, path.parent, what=f"row {number}")
        images = distinct_channels([where(str(row[channel])) for channel in channels])
        label = where(str(row["label"])) if row.get("label") else None
        group = row.get("group")
        known = group not in (None, "")
        case = Case(make_id(str(row["id"])), images, label, make_id(str(group)) if known else "")
        cases.append(_name_group(_resolve(case, settings, wanted or Wanted()), key))
    return cases


def _name_group(case: Case, key: Key) -> Case:
    """Return the case with its patient where the table names no group: two rows may be one patient's."""
    scans = [image for image in case.images if not isinstance(image, Path)]
    return case if case.group or not scans else replace(case, group=name_patient(scans[0].first, key()))


def _resolve(case: Case, settings: Data, wanted: Wanted) -> Case:
    """Return the case with its DICOM files as scans, or with the reason why they are none."""
    if not any(_is_dicom(path) for path in (*case.images, case.label)):
        return case
    try:
        images = _resolve_images(case, settings, wanted)
        return replace(case, images=images, label=_resolve_label(case.label, images, settings))
    except DataError as error:
        return replace(case, images=(), label=None, error=error)


def _is_dicom(path: object) -> bool:
    return isinstance(path, Path) and (path.is_dir() or (not is_image(path) and looks_like_dicom(path)))


def _resolve_images(case: Case, settings: Data, wanted: Wanted) -> tuple[Path | Scan, ...]:
    channels = settings.channels
    if not any(_is_dicom(path) for path in case.images):
        return case.images
    named = case.images if len(case.images) == len(channels) else case.images * len(channels)
    images: list[Path | Scan] = []
    for path, (name, channel) in zip(named, channels.items(), strict=True):
        if isinstance(path, Path) and _is_dicom(path):
            series = read_index(path, wanted).series
            images.append(settle_one(list_fits(series, channel.series), name, channel.series))
        else:
            images.append(path)
    scans = require_distinct([image for image in images if not isinstance(image, Path)])
    if len({scan.first.patient for scan in scans}) > 1:
        raise DataError(
            "the channels are scans of different patients",
            hint="correct the row; medseg never mixes patients",
            code="DICOM_MIXED_PATIENTS",
        )
    return tuple(images)


def _resolve_label(
    label: Path | DicomLabel | None, images: Sequence[Path | Scan], settings: Data
) -> Path | DicomLabel | None:
    if not isinstance(label, Path) or not _is_dicom(label):
        return label
    from medseg.io.dicom.labels.label import list_labels, make_label

    found, scans = list_labels(read_index(label)), [image for image in images if not isinstance(image, Path)]
    if len(found) != 1:
        raise DataError(
            f"the label names {len(found)} RTSTRUCT or SEG objects",
            hint="name the one file to learn from",
            code="LABEL_AMBIGUOUS" if found else "LABEL_MISSING",
        )
    if not scans:
        raise DataError(
            "the label is a DICOM object, and the image is no DICOM scan",
            hint="name the DICOM folder that the label was drawn on",
            code="LABEL_REFERENCE",
        )
    references = found[0].facts.get("references", "").split()
    own = [scan for scan in scans if scan.first.series in references]
    return make_label(found[0], (own or scans)[0], settings.rois, settings.labels)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = (
            list(csv.DictReader(io.StringIO(text, newline=""))) if path.suffix == ".csv" else json.loads(text)
        )
    except (ValueError, csv.Error) as error:
        raise DataError("the table is not valid UTF-8 CSV or JSON", code="TABLE_INVALID") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            "the JSON is not a list of cases",
            hint='[{"id": ..., "<channel>": ...}, ...]',
            code="TABLE_INVALID",
        )
    return rows
