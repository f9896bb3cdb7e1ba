"""What is compared with what: masks of two folders by id, and the table of their patients and groups."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.core.errors import ConfigError, DataError
from medseg.data.cases import make_id
from medseg.data.layouts import list_images, list_masks
from medseg.io import stem
from medseg.workflows.report import CaseResult, Report

PERSONAL = {
    *("patient", "patientid", "patientname", "pid", "mrn", "name", "firstname", "lastname", "surname"),
    *("subject", "subjectid", "participant", "participantid", "accession", "accessionnumber"),
    *("birthdate", "dateofbirth", "dob"),
}  # names of columns, their letters alone
Pairs = Mapping[str, tuple[Path, Path]]
log = logging.getLogger(__name__)
NO_PARTNER = "no predicted mask has this id"


@dataclass(frozen=True)
class Cohort:
    """What is known of the cases beside their masks.

    Args:
        patients: Case id -> whose it is.
        groups: Column -> case id -> group.
        ids: All of the table.
    """

    patients: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ids: Collection[str] = ()


def read_groups(path: Path) -> Cohort:
    """Read a CSV with the columns id, [patient], and any others, by which the cases are grouped.

    Names of groups are written as they are, so a column that seems to name people is refused.

    Raises:
        ConfigError: GROUPS_INVALID: it is no such table, lists an id twice, or seems to name people.
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
    for column in columns:
        if column not in {"id", "patient"} and re.sub(r"[^a-z]", "", column.lower()) in PERSONAL:
            raise ConfigError(
                f"the column `{column}` of the table of groups seems to name people",
                hint="call it `patient` if it tells whose case is whose, else leave it out",
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
        table.keys(),
    )


def check_groups(cohort: Cohort, names: Iterable[str]) -> None:
    """Warn (GROUPS_PARTIAL) of cases that the table of groups does not list.

    Args:
        cohort: Of `read_groups`.
        names: Ids of the cases.

    Raises:
        ConfigError: GROUPS_INVALID: it lists none of them.
    """
    everyone = list(names)
    unknown = [name for name in everyone if name not in cohort.ids]
    if len(unknown) == len(everyone):
        raise ConfigError(
            f"the table of groups lists none of the {len(everyone)} cases",
            hint=f"its ids are names of files without their ending, such as `{everyone[0]}`",
            code="GROUPS_INVALID",
        )
    if unknown:
        log.warning(
            "GROUPS_PARTIAL the table of groups does not list %d of %d cases, such as `%s`",
            *(len(unknown), len(everyone), unknown[0]),
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
