"""Where voxels are: the grid of a volume, without its values.

Array axes are (i, j, k); tensors are (B, C, I, J, K). World coordinates are RAS+ millimetres, as in
NIfTI. `affine` maps the index of a voxel's *centre* to its world position. A 2D image is a grid with
K = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError

Affine = NDArray[np.float64]

LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))  # negative, positive end of each RAS+ world axis


@dataclass(frozen=True, eq=False)
class Geometry:
    """A regular 3D grid in world space.

    Args:
        shape: (I, J, K) voxel counts, each >= 1.
        affine: (4, 4) index -> world matrix; finite, last row 0 0 0 1, invertible.

    Raises:
        GeometryError: Where shape or affine cannot describe a grid.
    """

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"a grid needs three axes of at least one voxel, not {shape}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.array_equal(affine[3], (0, 0, 0, 1)):
            raise GeometryError("the affine is not a (4, 4) matrix with last row 0 0 0 1")
        if not np.isfinite(affine).all():
            raise GeometryError("the affine holds NaN or infinity", code="AFFINE_NOT_FINITE")
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        # The determinant of the unit axes does not depend on units or voxel size.
        if lengths.min() < 1e-6 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
            raise GeometryError(
                f"the affine is singular (axis lengths {_numbers(lengths)} mm)",
                hint="export the scan again; its position in space cannot be recovered",
                code="AFFINE_SINGULAR",
            )
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def of_spacing(
        cls,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        origin_mm: Sequence[float] | NDArray[np.float64] = (0.0, 0.0, 0.0),
    ) -> Geometry:
        """Return an axis-aligned RAS+ grid whose first voxel's centre lies at `origin_mm`."""
        affine = np.diag([*spacing_mm, 1.0])
        affine[:3, 3] = origin_mm
        i, j, k = shape
        return cls((i, j, k), affine)

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(3,) distance between neighbouring voxel centres, rounded.

        The rounding makes re-stored copies of one grid, whose float32 headers differ in the last
        bit, the same grid for every later decision. It is 1e-5 mm, or three digits finer than the
        voxel where that is too coarse: microscopes have voxels of nanometres.
        """
        i, j, k = (
            round(float(step), 5 if step > 0.01 else 3 - math.floor(math.log10(step)))
            for step in np.linalg.norm(self.affine[:3, :3], axis=0)
        )
        return i, j, k

    @property
    def is_picture(self) -> bool:
        """Whether this is the grid of a PNG or TIFF: pixels of unknown size, in no patient's space."""
        return self.shape[2] == 1 and np.array_equal(self.affine, np.eye(4))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def direction(self) -> Affine:
        """(3, 3) unit vectors of the index axes, one per column."""
        linear = self.affine[:3, :3]
        return np.asarray(linear / np.linalg.norm(linear, axis=0))

    @cached_property
    def axes(self) -> tuple[tuple[int, int], ...]:
        """For each index axis, the world axis it runs along most closely and its sign (+1 or -1).

        World axes are handed out greedily, largest cosine first, so that no two index axes share
        one, also on oblique grids.
        """
        cosines = np.abs(self.direction)
        chosen: dict[int, int] = {}
        for flat in np.argsort(-np.round(cosines, 6), axis=None, kind="stable"):
            world, index = divmod(int(flat), 3)
            if index not in chosen and world not in chosen.values():
                chosen[index] = world
        signs = [1 if self.direction[chosen[index], index] >= 0 else -1 for index in range(3)]
        return tuple((chosen[index], signs[index]) for index in range(3))

    @property
    def orientation(self) -> str:
        """Three letters: the patient side that each index axis points to, e.g. "RAS"."""
        return "".join(LETTERS[world][(sign + 1) // 2] for world, sign in self.axes)

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Geometry:
        """Return the grid of `array[start[0]:stop[0], ...]`."""
        i, j, k = (int(b) - int(a) for a, b in zip(start, stop, strict=True))
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(start)
        return Geometry((i, j, k), affine)

    def resample(self, shape: Sequence[int]) -> Geometry:
        """Return the grid of `shape` that covers the same field of view, edge to edge."""
        i, j, k = (int(n) for n in shape)
        scale = np.array(self.shape) / np.array([i, j, k])
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] * scale
        affine[:3, 3] = self.to_world((scale - 1) / 2)
        return Geometry((i, j, k), affine)

    def to_world(self, index: Sequence[float] | NDArray[np.float64]) -> Affine:
        """Map (3,) or (N, 3) voxel indices to RAS+ millimetres."""
        points = np.asarray(index, dtype=np.float64)
        return np.asarray(points @ self.affine[:3, :3].T + self.affine[:3, 3])

    def differs_from(self, other: Geometry, tolerance_mm: float = 0.1) -> str:
        """Say how two grids differ, or return "" if they agree.

        Every corner must agree within `tolerance_mm`, and within half a voxel where voxels are smaller.
        """
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        apart = np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max()
        limit = min(tolerance_mm, 0.5 * min(self.spacing_mm))
        return f"corners up to {apart:.3g} mm apart" if apart > limit else ""


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
