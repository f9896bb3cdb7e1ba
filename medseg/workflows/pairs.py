"""What is compared with what: masks of two folders by id, and the table of their patients and groups."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.core.errors import ConfigError, DataError
from medseg.data.cases import make_id
from medseg.data.layouts import list_images, list_masks
from medseg.io import stem
from medseg.workflows.report import CaseResult, Report

Pairs = Mapping[str, tuple[Path, Path]]
NO_PARTNER = "no predicted mask has this id"


@dataclass(frozen=True)
class Cohort:
    """What is known of the cases beside their masks.

    Args:
        patients: Case id -> whose it is.
        groups: Column -> case id -> group.
    """

    patients: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_groups(path: Path) -> Cohort:
    """Read a CSV with the columns id, [patient], and any others, by which the cases are grouped.

    Raises:
        ConfigError: GROUPS_INVALID: it is no such table, or lists an id twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError("the table of groups cannot be read", code="GROUPS_INVALID") from error
    if "id" not in columns:
        raise ConfigError(
            "the table of groups has no column `id`",
            hint="columns: id, [patient], then site, scanner, sex, ...",
            code="GROUPS_INVALID",
        )
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        if (name := make_id(row["id"] or "")) in table:
            raise ConfigError(f"the table of groups lists `{name}` twice", code="GROUPS_INVALID")
        table[name] = {column: (row[column] or "").strip() for column in columns}
    return Cohort(
        {name: row["patient"] for name, row in table.items()} if "patient" in columns else {},
        {
            column: {name: row[column] for name, row in table.items()}
            for column in columns
            if column not in {"id", "patient"}
        },
    )


def pair_files(reference: Path, predicted: Path, report: Report) -> Pairs:
    """Pair two files, or the images of two folders by their id.

    Raises:
        ConfigError: Not two files and not two folders.
        DataError: Nothing to compare.
    """
    if reference.is_file() and predicted.is_file():
        return {make_id(stem(predicted)): (reference, predicted)}
    for folder in (reference, predicted):
        if not folder.is_dir():
            raise ConfigError(
                "give two files or two folders of masks", hint="check both paths", code="INPUT_MISSING"
            )
    references = _index(list_images(reference))
    masks = _index(list_masks(predicted))
    for name in sorted(references.keys() - masks.keys()):
        report.add(CaseResult(name, "rejected", "PREDICTION_MISSING", NO_PARTNER, "predict it too"))
    pairs = {name: (references[name], masks[name]) for name in sorted(references.keys() & masks.keys())}
    if not pairs:
        raise DataError("no file of one folder has the id of one in the other", code="NO_CASES")
    return pairs


def _index(paths: Sequence[Path]) -> dict[str, Path]:
    """Return id -> file.

    Raises:
        DataError: Two files have one id; which is meant, cannot be told.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if (name := make_id(stem(path))) in found:
            raise DataError(f"two masks have the id `{name}`", hint="remove one of them", code="DUPLICATE_ID")
        found[name] = path
    return found
