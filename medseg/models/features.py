"""Channel counts of the levels of a network, and the sizes that a user may ask for by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from medseg.core.errors import ConfigError
from medseg.core.select import suggest
from medseg.models.grid import Grid

Size = Literal["nano", "small", "base", "large"]
T = TypeVar("T")


@dataclass(frozen=True)
class Widths:
    """A rule for channels: `first`, doubled per level up to `most`.

    Args:
        first: Channels of level 0, or of level 1 where `thin` is given.
        most: Largest count, by number of spatial axes.
        thin: Channels of level 0 of networks that do little at full resolution.
    """

    first: int
    most: Mapping[int, int]
    thin: int | None = None

    def count(self, grid: Grid) -> tuple[int, ...]:
        """Return (levels,) channels, finest first."""
        head = () if self.thin is None else (self.thin,)
        rest = range(grid.levels - len(head))
        return head + tuple(min(self.first * 2**level, self.most[grid.dims]) for level in rest)


UNET: Mapping[str, Widths] = {
    "nano": Widths(4, {2: 16, 3: 16}),  # tests and quick looks
    "small": Widths(12, {2: 128, 3: 128}),  # what a CPU trains in time: a seventh of base's work
    "base": Widths(32, {2: 512, 3: 320}),  # nnU-Net (Isensee et al. 2021, supplementary note 2)
    "large": Widths(48, {2: 768, 3: 480}),  # 1.5 times wider, 2.25 times the weights
}
# Full resolution holds 7/8 of a 3D network's voxels, so these spend next to nothing there.
LIGHT: Mapping[str, Widths] = {
    "nano": Widths(8, {2: 16, 3: 16}, thin=4),
    "small": Widths(24, {2: 192, 3: 192}, thin=8),
    "base": Widths(32, {2: 512, 3: 320}, thin=8),
    "large": Widths(64, {2: 768, 3: 480}, thin=16),
}
# Ronneberger et al. 2015, fig. 1, is base.
PAPER: Mapping[str, Widths] = {
    "nano": Widths(8, {2: 32, 3: 32}),
    "small": Widths(16, {2: 256, 3: 256}),
    "base": Widths(64, {2: 1024, 3: 1024}),
    "large": Widths(96, {2: 1536, 3: 1536}),
}
# MedNeXt's published sizes differ in blocks and their expansion, not in channels (Roy et al. 2023, table 1).
MEDNEXT: Mapping[str, Widths] = {
    "nano": Widths(4, {2: 16, 3: 16}),
    "small": Widths(32, {2: 512, 3: 512}),
    "base": Widths(32, {2: 512, 3: 512}),
    "large": Widths(32, {2: 512, 3: 512}),
}
# Multiples of 8, the number of groups of its norm; base is Myronenko 2018, table 1 (four levels).
SEGRESNET: Mapping[str, Widths] = {
    "nano": Widths(8, {2: 16, 3: 16}),
    "small": Widths(16, {2: 128, 3: 128}),
    "base": Widths(32, {2: 512, 3: 320}),
    "large": Widths(48, {2: 768, 3: 480}),
}


def spread(values: Sequence[int], levels: int) -> tuple[int, ...]:
    """Return one value per level; the last serves all levels beyond."""
    return tuple(values[min(level, len(values) - 1)] for level in range(levels))


def pick(kind: str, table: Mapping[str, T], name: str) -> T:
    """Return `table[name]`.

    Raises:
        ConfigError: `UNKNOWN_NAME`; the hint names the nearest.
    """
    if name not in table:
        raise ConfigError(f"no {kind} is called `{name}`", hint=suggest(name, table), code="UNKNOWN_NAME")
    return table[name]


def choose_features(
    features: Sequence[int] | None,
    grid: Grid,
    *,
    size: str | None = None,
    table: Mapping[str, Widths] = UNET,
) -> tuple[int, ...]:
    """Return one channel count per level of `grid`, finest first.

    Args:
        features: The user's counts; those beyond the last level are not used. They come before `size`,
            that before the plan's (level 0 stays as thin as `base`, where it is), and those before `base`.
        grid: Gives the number of levels.
        size: An entry of `table`.
        table: What the sizes mean to this network.

    Raises:
        ConfigError: `FEATURES_TOO_FEW` where a level would have no count; `UNKNOWN_NAME` of a size.
    """
    named = None if size is None else pick("size", table, size).count(grid)
    base = table["base"]
    planned = (base.thin or grid.features[0], *grid.features[1:]) if grid.features else None
    counts = features or named or planned or base.count(grid)
    if len(counts) < grid.levels:
        raise ConfigError(
            f"{len(counts)} features {tuple(counts)} for a grid of {grid.levels} levels",
            hint=f"give at least {grid.levels} numbers, finest level first",
            code="FEATURES_TOO_FEW",
        )
    return tuple(counts[: grid.levels])
