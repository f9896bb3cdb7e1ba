"""Channel counts of the levels of a network."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.core.errors import ConfigError
from medseg.models.grid import Grid

FIRST = 32  # nnU-Net: 32 channels at full resolution, doubled per level ...
MOST = {2: 512, 3: 320}  # ... up to this many (Isensee et al. 2021, supplementary note 2)


def choose_features(features: Sequence[int] | None, grid: Grid) -> tuple[int, ...]:
    """Return one channel count per level of `grid`, finest first.

    Args:
        features: The user's counts; those beyond the last level are not used. None: the plan's, or
            nnU-Net's where it has none.
        grid: Gives the number of levels.

    Raises:
        ConfigError: `FEATURES_TOO_FEW` where a level would have no count.
    """
    features = features or grid.features or None
    if features is None:
        return tuple(min(FIRST * 2**level, MOST[grid.dims]) for level in range(grid.levels))
    if len(features) < grid.levels:
        raise ConfigError(
            f"{len(features)} features {tuple(features)} for a grid of {grid.levels} levels",
            hint=f"give at least {grid.levels} numbers, finest level first",
            code="FEATURES_TOO_FEW",
        )
    return tuple(features[: grid.levels])
