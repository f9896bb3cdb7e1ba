"""Two masks of one structure on one grid, and everything metrics share about them.

Shape legend: (I, J, K) voxels, (N, 3) points.

The *surface* of a mask is its boundary voxels: mask voxels with at least one face neighbour outside
the mask; beyond the image border counts as outside. An axis of one voxel has no neighbours, so a 2D
image (K = 1) has its outline as surface, not its whole area. This is what MONAI 1.6 does
(`monai.metrics.utils.get_mask_edges`: mask XOR its erosion on a padded crop) for 3D and 2D tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import DataError, GeometryError
from medseg.metrics.nearest import measure_distances
from medseg.metrics.surfels import Surfels, match_surfels

Mask = NDArray[np.bool_]
LabelMap = NDArray[np.integer[Any]]
Box = tuple[slice, ...]
State = Literal["present", "missed", "spurious", "both_empty"]


@dataclass(frozen=True, eq=False)
class Pair:
    """Reference and prediction of one structure; counts and surfaces are computed once, on demand.

    Args:
        reference: (I, J, K) bool.
        predicted: (I, J, K) bool.
        spacing_mm: (3,) distance between voxel centres.
        counts: tp, fp and fn, where they are known already.
        instances: (I, J, K) object ids of reference and prediction, 0 outside the masks; None: an object is
            a connected component.

    Raises:
        GeometryError: The masks differ in shape, or a spacing is not a positive number.
        DataError: A mask is not bool.
    """

    reference: Mask
    predicted: Mask
    spacing_mm: tuple[float, float, float]
    counts: tuple[int, int, int] | None = None
    instances: tuple[LabelMap, LabelMap] | None = None

    def __post_init__(self) -> None:
        check_grid(self.reference, self.predicted, self.spacing_mm)
        if self.reference.dtype != np.bool_ or self.predicted.dtype != np.bool_:
            raise DataError(
                f"masks are bool, not {self.reference.dtype} and {self.predicted.dtype}",
                hint="compare with one label value: `labels == value`",
                code="MASK_NOT_BOOL",
            )

    @cached_property
    def box(self) -> Box:
        """Joint bounding box of both masks and a margin of one voxel, where there is one."""
        return joint_box([find_box(self.reference), find_box(self.predicted)], self.reference.shape)

    @cached_property
    def cropped(self) -> tuple[Mask, Mask]:
        """Both masks inside `box`."""
        return self.reference[self.box], self.predicted[self.box]

    @cached_property
    def tp(self) -> int:
        """Voxels in both masks."""
        if self.counts:
            return self.counts[0]
        reference, predicted = self.cropped
        return int(np.count_nonzero(reference & predicted))

    @cached_property
    def fp(self) -> int:
        """Voxels in the prediction only."""
        return self.counts[1] if self.counts else int(np.count_nonzero(self.cropped[1])) - self.tp

    @cached_property
    def fn(self) -> int:
        """Voxels in the reference only."""
        return self.counts[2] if self.counts else int(np.count_nonzero(self.cropped[0])) - self.tp

    @property
    def state(self) -> State:
        """Which mask is empty: "missed" is an empty prediction, "spurious" an empty reference."""
        in_reference, in_predicted = self.tp + self.fn > 0, self.tp + self.fp > 0
        if in_reference:
            return "present" if in_predicted else "missed"
        return "spurious" if in_predicted else "both_empty"

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel; 1 ml is 1000 mm3."""
        i, j, k = self.spacing_mm
        return i * j * k / 1000

    @cached_property
    def surfaces(self) -> tuple[Mask, Mask]:
        """Boundary voxels of the reference and of the prediction, on the grid of `cropped`."""
        reference, predicted = self.cropped
        return find_surface(reference), find_surface(predicted)

    @cached_property
    def distances_mm(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(N,) and (M,): from each boundary voxel of one mask to the nearest of the other, in storage order.

        First from the reference to the prediction, then back. Rounded to a nanometre, so that a
        distance of exactly a tolerance is not lost to the last bit. Infinite where the other mask is empty.
        """
        reference, predicted = self.surfaces
        return (
            measure_distances(reference, predicted, self.spacing_mm),
            measure_distances(predicted, reference, self.spacing_mm),
        )

    @cached_property
    def surfels(self) -> tuple[Surfels, Surfels]:
        """Surface elements of the reference and of the prediction, with areas and distances (`surfels`)."""
        return match_surfels(*self.cropped, self.spacing_mm)


def check_grid(
    reference: NDArray[np.generic], predicted: NDArray[np.generic], spacing_mm: Sequence[float]
) -> None:
    """Raise GeometryError unless both arrays are (I, J, K) of one shape and the spacing is usable."""
    if reference.shape != predicted.shape or reference.ndim != 3:
        raise GeometryError(
            f"reference {reference.shape} and prediction {predicted.shape} do not lie on one (I, J, K) grid",
            hint="resample the prediction to the reference's grid before comparing",
            code="GRID_MISMATCH",
        )
    if len(spacing_mm) != 3 or not all(np.isfinite(mm) and mm > 0 for mm in spacing_mm):
        raise GeometryError(
            f"spacing {tuple(spacing_mm)} is not three positive numbers", code="SPACING_INVALID"
        )


def find_box(mask: Mask) -> Box | None:
    """Return the bounding box of the mask, None for an empty one."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hits = np.flatnonzero(mask[tuple(box)].any(axis=others))  # later axes look inside the box so far
        if not hits.size:
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)


def joint_box(boxes: Sequence[Box | None], shape: Sequence[int]) -> Box:
    """Return the box around `boxes` plus a margin of one voxel, clipped to `shape`; empty if all are None.

    The margin keeps a one-voxel-thick structure on a 3D grid apart from a 2D grid.
    """
    found = [box for box in boxes if box is not None]
    if not found:
        return tuple(slice(0, 0) for _ in shape)
    return tuple(
        slice(max(min(s.start for s in sides) - 1, 0), min(max(s.stop for s in sides) + 1, n))
        for sides, n in zip(zip(*found, strict=True), shape, strict=True)
    )


def find_surface(mask: Mask) -> Mask:
    """Return the boundary voxels of `mask`, as defined at the top of this module."""
    interior = mask.copy()
    for axis, size in enumerate(mask.shape):
        if size == 1 < mask.size:  # an image of a single voxel is its own surface
            continue
        source, target = np.moveaxis(mask, axis, 0), np.moveaxis(interior, axis, 0)
        target[1:] &= source[:-1]
        target[:-1] &= source[1:]
        target[[0, -1]] = False
    return mask & ~interior
