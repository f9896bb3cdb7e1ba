"""Word the model card: what a model is for, what it learned from, how good it is, where it stops.

Only plain values come in, and a card holds counts and hashes, never case ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LIMITS = (
    "Research software: not a medical device and not for diagnosis or treatment decisions.",
    "Scores hold for data like the training data; another scanner, protocol or disease needs a new test.",
    "Every mask needs the eye of a qualified reader before it is used.",
)


@dataclass(frozen=True)
class Card:
    """The contents of a model card.

    Args:
        pipeline: Name of the pipeline.
        version: Version of medseg.
        purpose: What is segmented in what, in a sentence or two.
        counts: Name of a quantity -> how many, e.g. {"training cases": 160, "patients": 155}.
        labels: Value in the mask -> name.
        metrics: One row per label, e.g. {"label": "anterior", "dice": 0.87}; None means undefined.
        plan: What was decided from the data: spacing, patch, network, ...
        hashes: Name -> SHA-256 of what the model depends on: data, configuration, weights.
        data_note: Where the training data comes from and its licence.
        limits: Known limits beside the general ones.
        notes: What belongs to the scores, such as post-processing that they were measured without.
    """

    pipeline: str
    version: str
    purpose: str
    counts: Mapping[str, int]
    labels: Mapping[int, str]
    metrics: Sequence[Mapping[str, Any]] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    data_note: str = ""
    limits: Sequence[str] = ()
    notes: Sequence[str] = ()


def write_card(card: Card) -> str:
    """Return MODEL_CARD.md."""
    parts = [
        f"# {card.pipeline}\n\n{card.purpose}\n\nMade with medseg {card.version}.",
        "## Intended use and limits\n\n" + "\n".join(f"- {limit}" for limit in (*LIMITS, *card.limits)),
        "## Labels\n\n" + _table([{"value": value, "name": name} for value, name in card.labels.items()]),
        "## Data\n\n" + _table([{"quantity": name, "number": n} for name, n in card.counts.items()]),
        card.data_note,
        "## Scores\n\n" + (_table(card.metrics) if card.metrics else "None were measured."),
        "\n".join(f"- {note}" for note in card.notes),
        "## Plan\n\n" + _table([{"setting": name, "value": value} for name, value in card.plan.items()]),
        "## Hashes (SHA-256)\n\n" + _table([{"of": name, "hash": h} for name, h in card.hashes.items()]),
        "## Licence\n\nThe code is under Apache-2.0. The weights are under the terms of the training data.",
    ]
    return "\n\n".join(part for part in parts if part and not part.endswith("\n\n")) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table, "" for no rows."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_word(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _word(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " × ".join(_word(item) for item in value)
    return str(value).replace("|", "\\|").replace("\n", " ")
