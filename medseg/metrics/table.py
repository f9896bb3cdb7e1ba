"""The metrics of many cases in little memory: 8 bytes a value, and no image.

A case keeps an array of (structures, values); names are shared. It reads as a sequence of `CaseMetrics`,
sorted by id, so that what takes a list of cases takes this too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import ConfigError
from medseg.metrics.calibration import Bins
from medseg.metrics.case import CaseMetrics, LabelMetrics
from medseg.metrics.pair import State

STATES: tuple[State, ...] = ("present", "missed", "spurious", "both_empty")
Key = tuple[Literal["label", "region"], Hashable]  # ("label", 1), ("region", "tumor")


@dataclass(frozen=True, eq=False, slots=True)
class _Packed:
    """One case: which structures it has, in which rows, and which values, in which columns."""

    case_id: str
    keys: Mapping[Key, int]
    states: bytes
    names: Mapping[str, int]
    values: NDArray[np.float64]
    whole: dict[str, float | None]  # miou, pixel_accuracy, ...


@dataclass(frozen=True, eq=False)
class Column:
    """One structure over all cases.

    Args:
        name: Of the structure.
        states: (N,) index in `STATES`.
        values: Name -> (N,), NaN where undefined.
    """

    name: str
    states: NDArray[np.int8]
    values: Mapping[str, NDArray[np.float64]]


class Scores(Sequence[CaseMetrics]):
    """Cases as they come; a label that a case does not list is in neither of its masks.

    Args:
        absent: Values of a structure that is in neither mask.
    """

    def __init__(self, absent: Mapping[str, float | None] | None = None) -> None:
        self._cases: list[_Packed] = []
        self._absent = dict(absent or {})
        self._names: dict[Key, str] = {}
        self._known: dict[Key, set[str]] = {}  # which values a structure has in some case
        self._shared: dict[tuple[Any, ...], dict[Any, int]] = {}
        self._is_sorted = True
        self.options: Mapping[str, Mapping[str, Any]] | None = None
        self.confusion: dict[tuple[int, int], int] = {}
        self.calibration: tuple[Bins, Bins] | None = None  # of all voxels, and of foreground

    @classmethod
    def of(cls, cases: Iterable[CaseMetrics]) -> Self:
        """Return cases in the given order."""
        scores = cls()
        for case in cases:
            scores.add(case)
        scores._is_sorted = True
        return scores

    def add(self, case: CaseMetrics) -> None:
        """Keep the numbers of a case.

        Raises:
            ConfigError: METRICS_DIFFER: it was evaluated with other options than those before.
        """
        if self.options is None:
            self.options = case.options
        elif self.options != case.options:
            raise ConfigError(
                "the cases were evaluated with different metric options",
                hint="evaluate all cases again with one set of options",
                code="METRICS_DIFFER",
            )
        rows: dict[Key, LabelMetrics] = {("label", value): row for value, row in case.labels.items()}
        rows |= {("region", name): row for name, row in case.regions.items()}
        for key, row in rows.items():
            self._names[key] = row.name
            self._known.setdefault(key, set()).update(row.values)
        whole = {"miou": case.miou, "pixel_accuracy": case.pixel_accuracy}
        if case.calibration:
            pooled = case.calibration.whole, case.calibration.foreground
            whole |= {"ece": pooled[0].error, "ece_foreground": pooled[1].error}
            before = self.calibration or (Bins.none(), Bins.none())
            self.calibration = (before[0] + pooled[0], before[1] + pooled[1])
        for pair, n in case.confusion.items():
            self.confusion[pair] = self.confusion.get(pair, 0) + n
        self._cases.append(self._pack(case.case_id, rows, whole))
        self._is_sorted = False

    def _pack(
        self, case_id: str, rows: Mapping[Key, LabelMetrics], whole: dict[str, float | None]
    ) -> _Packed:
        names = self._share(tuple(dict.fromkeys(name for row in rows.values() for name in row.values)))
        table = [[row.values.get(name) for name in names] for row in rows.values()]
        states = bytes(STATES.index(row.state) for row in rows.values())
        values = np.array(table, np.float64).reshape(len(rows), len(names))
        return _Packed(case_id, self._share(tuple(rows)), states, names, values, whole)

    def _share(self, names: tuple[Any, ...]) -> dict[Any, int]:
        """Return where each name stands; cases of the same names share one such dict."""
        return self._shared.setdefault(names, {name: at for at, name in enumerate(names)})

    @property
    def ids(self) -> list[str]:
        """The ids of the cases, in order."""
        return [case.case_id for case in self._sorted()]

    @property
    def keys(self) -> list[Key]:
        """All structures: labels by value, then regions as they came."""
        labels = sorted(
            (key for key in self._names if key[0] == "label"), key=lambda key: str(key[1]).zfill(9)
        )
        return labels + [key for key in self._names if key[0] == "region"]

    def whole(self, name: str) -> NDArray[np.float64]:
        """Return (N,) of a number that a case has as a whole, NaN where undefined."""
        return np.array([case.whole.get(name) for case in self._sorted()], np.float64)

    @property
    def value_names(self) -> list[str]:
        """The names of all values."""
        shared = {id(case.names): case.names for case in self._sorted()}
        return list(dict.fromkeys(name for names in shared.values() for name in names))

    def column(self, key: Key) -> Column:
        """Return one structure over all cases."""
        cases, names = self._sorted(), self.value_names
        places = [case.keys.get(key) for case in cases]
        absent = STATES.index("both_empty")
        states = [absent if at is None else case.states[at] for case, at in zip(cases, places)]
        table = np.array([self._row(case, at, names) for case, at in zip(cases, places)], np.float64)
        table = table.reshape(len(cases), len(names))
        is_known = [name in self._known[key] for name in names]
        values = {name: table[:, at] for at, name in enumerate(names) if is_known[at]}
        return Column(self._names[key], np.array(states, np.int8), values)

    def _row(self, case: _Packed, at: int | None, names: list[str]) -> list[float | None]:
        if at is not None and list(case.names) == names:
            row: list[float | None] = case.values[at].tolist()
            return row
        return [self._read(case, at, name) for name in names]

    def _read(self, case: _Packed, at: int | None, name: str) -> float | None:
        if at is None:
            return self._absent.get(name)
        return float(case.values[at, case.names[name]]) if name in case.names else None

    def _sorted(self) -> list[_Packed]:
        if not self._is_sorted:
            self._cases.sort(key=lambda case: case.case_id)
            self._is_sorted = True
        return self._cases

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[CaseMetrics]:
        keys = self.keys
        return (self._unpack(case, keys) for case in self._sorted())

    @overload
    def __getitem__(self, index: int) -> CaseMetrics: ...
    @overload
    def __getitem__(self, index: slice) -> list[CaseMetrics]: ...
    def __getitem__(self, index: int | slice) -> CaseMetrics | list[CaseMetrics]:
        if isinstance(index, slice):
            keys = self.keys
            return [self._unpack(case, keys) for case in self._sorted()[index]]
        return self._unpack(self._sorted()[index], self.keys)

    def _unpack(self, case: _Packed, keys: Sequence[Key]) -> CaseMetrics:
        """Return a case with every structure; without its confusion and calibration, which are pooled."""
        found: dict[Key, LabelMetrics] = {}
        for key in keys:
            at = case.keys.get(key)
            state: State = "both_empty" if at is None else STATES[case.states[at]]
            names = self._absent if at is None else case.names
            values = {name: _defined(self._read(case, at, name)) for name in names}
            found[key] = LabelMetrics(self._names[key], state, values)
        return CaseMetrics(
            case.case_id,
            {key[1]: row for key, row in found.items() if key[0] == "label" and isinstance(key[1], int)},
            case.whole["miou"],
            case.whole["pixel_accuracy"],
            self.options or {},
            {str(key[1]): row for key, row in found.items() if key[0] == "region"},
        )


def _defined(number: float | None) -> float | None:
    return None if number is None or np.isnan(number) else number
