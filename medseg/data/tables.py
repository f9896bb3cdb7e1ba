"""Cohorts listed in a CSV or JSON table: id, <channel names>, [label], [group]."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from medseg.core.errors import DataError
from medseg.data.cases import Case, confine, distinct_channels, make_id


def is_table(path: Path) -> bool:
    """Say whether `path` is a CSV or JSON file."""
    return path.is_file() and path.suffix in {".csv", ".json"}


def read_table(path: Path, channels: list[str]) -> list[Case]:
    """Read a CSV or JSON list of cases: id, <channel names>, [label], [group].

    Raises:
        DataError: Missing columns or paths that leave the table's folder.
    """
    cases = []
    for number, row in enumerate(_read_rows(path), start=1):
        if missing := [key for key in ["id", *channels] if row.get(key) in (None, "")]:
            raise DataError(
                f"row {number} lacks {', '.join(missing)}",
                hint=f"columns: id, {', '.join(channels)}, [label], [group]",
                code="TABLE_INVALID",
            )
        images = distinct_channels([confine(path.parent, str(row[channel])) for channel in channels])
        label = confine(path.parent, str(row["label"])) if row.get("label") else None
        group = row.get("group")
        known = group not in (None, "")
        cases.append(Case(make_id(str(row["id"])), images, label, make_id(str(group)) if known else ""))
    return cases


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
