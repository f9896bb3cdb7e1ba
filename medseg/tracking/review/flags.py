"""Which cases to look at first, and why.

failed        no mask was made, or it misses a structure that the reference has, or lies beside it (Dice 0)
invented      it holds a structure that the reference does not have
outlier       Dice of a structure is far below that of the other cases, or its volume (as a share of the
              reference's, where there is one) far from theirs; without a reference also a structure that was
              not found and that nearly all others have
empty         the mask is empty
unlike        out of distribution: the case is unlike the training cases (p <= 0.05, see docs/trust.md)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

FLAGS = ("failed", "invented", "outlier", "empty", "unlike")
FAR = 3.5  # robust z-scores beyond it are outliers (Iglewicz and Hoaglin 1993)
NORMAL = 1.4826  # the MAD of a normal distribution times this is its standard deviation
FLOORS = {"dice": 0.02, "volume": 0.05}  # least spread: of cases that agree better, a small step is no alarm
MIN_CASES = 6  # of fewer, none is called far from the others
NEARLY_ALL = 0.9  # of the other cases have it: then a case without it is an outlier
UNLIKELY = 0.05


@dataclass(frozen=True)
class Entry:
    """What is known of a case without its images.

    Args:
        id: The case id.
        rows: A row a structure, as `medseg.metrics.rows` has them; none where there is no reference.
        volumes_ml: Name of a structure -> volume in the mask, 0 where it is not named; those of `rows` come
            first.
        part: Who predicted it: "fold 0", "test", "".
        error: Why there is no mask: "CODE: message".
        reasons: Of trust, why to look at it.
        p: Of the outlier test of trust.
        found: Names of the structures in the mask, where no volume tells: pixels have no size.
    """

    id: str
    rows: Sequence[Mapping[str, Any]] = ()
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    part: str = ""
    error: str = ""
    reasons: Sequence[str] = ()
    p: float | None = None
    found: Collection[str] | None = None

    @property
    def score(self) -> float | None:
        """Mean Dice over the labels for which it is defined; regions, which cover labels, do not count."""
        rows = [row for row in self.rows if row["label"] != "region"] or self.rows
        defined = [row["dice"] for row in rows if row.get("dice") is not None]
        return math.fsum(defined) / len(defined) if defined else None

    @property
    def volumes(self) -> dict[str, float]:
        """Name of a structure -> predicted volume in ml."""
        told = {row["name"]: row.get("volume_predicted_ml") for row in self.rows}
        return {**self.volumes_ml, **{name: ml for name, ml in told.items() if ml is not None}}

    @property
    def present(self) -> set[str] | None:
        """Names of the structures in the mask; None where that is not known."""
        if self.error:
            return None
        if self.rows:
            return {row["name"] for row in self.rows if row["state"] in {"present", "spurious"}}
        if self.volumes_ml:
            return {name for name, ml in self.volumes_ml.items() if ml}
        return None if self.found is None else set(self.found)


def flag_cases(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return plain data of all cases, the worst first.

    Those without a mask come first, then by mean Dice; without a score, by flags and how unlikely they are.
    """
    entries = list(entries)
    far = _find_far(entries)
    flagged = [_flag(entry, far.get(entry.id, [])) for entry in entries]
    return sorted(flagged, key=_rank)


def measure_robust_z(values: Sequence[float], floor: float) -> list[float]:
    """Return (x - median) / (1.4826 MAD), the spread at least `floor`."""
    middle = median(values)
    spread = max(NORMAL * median(abs(value - middle) for value in values), floor)
    return [(value - middle) / spread for value in values]


def _rank(case: Mapping[str, Any]) -> tuple[Any, ...]:
    score, p = case["score"], case["p"]
    flags = sum(2 ** -FLAGS.index(flag) for flag in case["flags"])
    return (
        not case["error"],
        math.inf if score is None else score,
        -flags,
        1.0 if p is None else p,
        case["id"],
    )


def _find_far(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Return case id -> sentences on what is far from the other cases."""
    found: dict[str, list[str]] = {}
    for name, scores in _gather(
        entries, lambda entry: {r["name"]: r.get("dice") for r in entry.rows}
    ).items():
        for key, z in _name_z(scores, FLOORS["dice"]).items():
            if z < -FAR and scores[key] > 0:  # at 0 it was missed, which is said already
                found.setdefault(key, []).append(f"{name}: Dice {scores[key]:.2f}, {_word_z(z)}")
    for name, ratios in _gather(entries, _compare_volumes).items():
        logs = {key: math.log(ratio) for key, ratio in ratios.items() if ratio > 0}
        for key, z in _name_z(logs, FLOORS["volume"]).items():
            if abs(z) > FAR:
                found.setdefault(key, []).append(f"{name}: volume {_word_z(z)}")
    for key, words in _find_missing(entries):
        found.setdefault(key, []).append(words)
    return found


def _find_missing(entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """Yield case id and a sentence per structure that a mask lacks and nearly all others have.

    A reference says better whether it is missed, and of an empty mask that is said already.
    """
    present = {
        entry.id: names for entry in entries if not entry.rows and (names := entry.present) is not None
    }
    others = len(present) - 1
    if others + 1 < MIN_CASES:
        return
    counts = Counter(name for names in present.values() for name in names)
    for key, names in present.items():
        for name, count in counts.items() if names else ():
            if name not in names and count >= NEARLY_ALL * others:
                yield key, f"{name}: not found, {count} of {others} other cases have it"


def _compare_volumes(entry: Entry) -> dict[str, float | None]:
    """Return predicted over reference volume; the volume itself where there is no reference."""
    if not entry.rows:
        return dict(entry.volumes)
    pairs = [(r["name"], r.get("volume_predicted_ml"), r.get("volume_reference_ml")) for r in entry.rows]
    return {name: found / truth if truth and found is not None else None for name, found, truth in pairs}


def _gather(
    entries: Sequence[Entry], read: Callable[[Entry], Mapping[str, float | None]]
) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for entry in entries:
        for name, value in read(entry).items():
            if value is not None:
                table.setdefault(name, {})[entry.id] = value
    return table


def _name_z(values: Mapping[str, float], floor: float) -> dict[str, float]:
    if len(values) < MIN_CASES:
        return {}
    return dict(zip(values, measure_robust_z(list(values.values()), floor), strict=True))


def _word_z(z: float) -> str:
    return f"{abs(z):.1f} robust SD {'above' if z > 0 else 'below'} the median case"


def _flag(entry: Entry, far: Sequence[str]) -> dict[str, Any]:
    missed = [row["name"] for row in entry.rows if row["state"] == "missed"]
    apart = [
        row["name"]
        for row in entry.rows
        if row["state"] == "present" and 0 in (row.get("dice"), row.get("iou"))
    ]
    invented = [row["name"] for row in entry.rows if row["state"] == "spurious"]
    is_empty = entry.present == set()
    is_unlike = entry.p is not None and entry.p <= UNLIKELY
    reasons = [entry.error] if entry.error else []
    reasons += [f"{name}: missed, the reference has it" for name in missed]
    reasons += [f"{name}: no overlap with the reference" for name in apart]
    reasons += [f"{name}: found, the reference does not have it" for name in invented]
    reasons += [*far, *entry.reasons]
    if is_empty and not missed:
        reasons.append("the mask is empty")
    if is_unlike and not any("unlike the training" in reason for reason in reasons):
        reasons.append(f"the case is unlike the training cases (p = {entry.p:.3f})")
    told = (bool(entry.error or missed or apart), bool(invented), bool(far), is_empty, is_unlike)
    return {
        "id": entry.id,
        "part": entry.part,
        "score": entry.score,
        "p": entry.p,
        "error": entry.error,
        "flags": [flag for flag, is_told in zip(FLAGS, told, strict=True) if is_told],
        "reasons": reasons,
        "rows": [dict(row) for row in entry.rows],
        "volumes": entry.volumes,
    }
