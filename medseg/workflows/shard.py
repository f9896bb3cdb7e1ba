"""A share of a cohort, so that several processes or machines can segment into one folder; or of the folds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from medseg.core.errors import ConfigError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Every `count`-th case from the `number`-th on, counted from 1."""

    number: int = 1
    count: int = 1

    @property
    def report_name(self) -> str:
        """The report's file name, no other shard's."""
        return "report.json" if self.count == 1 else f"report_{self.number}_of_{self.count}.json"

    def take(self, cases: Sequence[Item]) -> list[Item]:
        """Return this shard's part of all cases."""
        return list(cases[self.number - 1 :: self.count])


def parse_shard(text: str | None) -> Shard:
    """Return the shard that "2/8" names; None names all cases.

    Raises:
        ConfigError: SHARD_INVALID.
    """
    if text is None:
        return Shard()
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    shard = Shard(*map(int, match.groups())) if match else Shard(0, 0)
    if not 1 <= shard.number <= shard.count:
        raise ConfigError(
            f"`{text}` is no shard",
            hint="give --shard 1/4 to 4/4 to four processes, for example",
            code="SHARD_INVALID",
        )
    return shard


def parse_folds(text: str | None) -> list[int] | None:
    """Return the folds that "0,2" names, each once and in order; None names all.

    Raises:
        ConfigError: UNKNOWN_FOLD.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", text):
        raise ConfigError(
            f"`{text}` names no folds", hint="give their numbers: --folds 0,2", code="UNKNOWN_FOLD"
        )
    return sorted({int(fold) for fold in text.split(",")})
