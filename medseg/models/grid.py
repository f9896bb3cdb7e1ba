"""The grid a network works on, as plain data that the plan writes and the builders read.

Nothing here needs torch, so plans can be made, printed and checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from medseg.core.errors import ConfigError


@dataclass(frozen=True)
class Grid:
    """Patch, spacing and resolution levels of a network.

    Args:
        dims: Spatial axes, 2 or 3.
        patch: (dims,) voxels of one training sample.
        spacing_mm: (dims,) voxel size that the patch is sampled at.
        strides: (levels, dims) step from the level above; all ones at level 0, as in nnU-Net.
        kernels: (levels, dims) odd convolution kernel of each level.
        features: Channels per level that the plan proposes; () leaves it to the network.

    Raises:
        ConfigError: `GRID_INVALID` where the numbers do not describe a network, `GRID_TOO_DEEP` where
            one voxel or less of the patch is left at the coarsest level (it cannot be normalised).
    """

    dims: int
    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    features: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Turn lists, as JSON gives them, into tuples and check them."""
        object.__setattr__(self, "patch", tuple(self.patch))
        object.__setattr__(self, "spacing_mm", tuple(self.spacing_mm))
        object.__setattr__(self, "strides", tuple(tuple(level) for level in self.strides))
        object.__setattr__(self, "kernels", tuple(tuple(level) for level in self.kernels))
        object.__setattr__(self, "features", tuple(self.features))
        if fault := self._find_fault():
            raise ConfigError(
                f"the grid is impossible: {fault}", hint="correct the plan", code="GRID_INVALID"
            )
        bottom = [ceil(n / stride) for n, stride in zip(self.patch, self.total_stride)]
        if prod(bottom) < 2:
            raise ConfigError(
                f"a patch of {self.patch} leaves a single voxel after strides of {self.total_stride}",
                hint="enlarge the patch or use fewer levels",
                code="GRID_TOO_DEEP",
            )

    def _find_fault(self) -> str:
        rows = (self.patch, self.spacing_mm, *self.strides, *self.kernels)
        if self.dims not in (2, 3):
            return f"{self.dims} spatial axes; only 2 and 3 are known"
        if any(len(row) != self.dims for row in rows):
            return f"every entry needs {self.dims} numbers, one per axis"
        if len(self.strides) != len(self.kernels) or not self.strides:
            return f"{len(self.strides)} strides and {len(self.kernels)} kernels; each level needs both"
        if any(step != 1 for step in self.strides[0]):
            return f"level 0 has strides {self.strides[0]}; it keeps full resolution"
        if any(number <= 0 for row in rows for number in row):
            return "patch, spacing, strides and kernels must be positive"
        if any(size % 2 == 0 for row in self.kernels for size in row):
            return f"kernels {self.kernels} must be odd"
        return ""

    @property
    def levels(self) -> int:
        return len(self.strides)

    @property
    def total_stride(self) -> tuple[int, ...]:
        """Input voxels per voxel of the coarsest level, axis by axis."""
        return tuple(prod(steps) for steps in zip(*self.strides))
