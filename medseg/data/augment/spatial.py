"""Where the voxels of a patch come from: the draw, as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.data.plan import Plan
from medseg.data.settings import Augment

Floats = NDArray[np.float64]
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class SpatialDraw:
    """Patch voxel p maps to case voxel `matrix @ (q + elastic(q)) + centre`, q = distort(p - middle).

    The middle is (patch - 1) / 2. Each of the three steps is one to one, so nothing ever folds.

    Args:
        centre: (3,) case point at the patch's middle; between two voxels where the patch's edge is even.
        matrix: (3, 3) rotation, scale, quarter turns and flips, in voxels of the case.
        knots: Grid distortion: per axis, where evenly spread knots from end to end of the patch go, in
            voxels from its middle, rising; an axis without knots stays as it is. Linear in between.
        control: (3, A, B, C) elastic displacements in voxels of the patch, coefficients of cubic B-splines;
            an axis with one of them does not vary.
        control_step: (3,) voxels between control points.
        swapped: Pairs of classes that change places.
    """

    centre: Floats
    matrix: Floats
    knots: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]] = ((), (), ())
    control: Floats | None = None
    control_step: tuple[float, float, float] = (1.0, 1.0, 1.0)
    swapped: Pairs = ()

    @property
    def is_plain(self) -> bool:
        """Whether no value has to be interpolated: flips and quarter turns at most."""
        stays = self.control is None and not any(self.knots)
        return stays and bool(np.isin(self.matrix, (-1, 0, 1)).all())


def draw_spatial(
    rng: np.random.Generator,
    centre: Sequence[int] | NDArray[np.int64],
    plan: Plan,
    settings: Augment,
    *,
    swap: Pairs = (),
) -> SpatialDraw:
    """Draw all spatial changes of the patch that spans `centre - patch // 2` and on.

    Angles are drawn in world space and brought to voxels with the plan's spacing, so that a rotation
    stays a rotation on anisotropic grids. Elastic fields and grid distortion act within the planes that
    rotations stay in.

    Args:
        rng: The only source of chance.
        centre: (3,) voxel of the case.
        plan: Patch, spacing, axes to mirror and to rotate around.
        settings: Probabilities and ranges.
        swap: Pairs of classes, the left and right of a thing: axis 0 is mirrored, too, and they are swapped.
    """
    matrix = _draw_affine(rng, plan, settings)
    flips = [axis for axis in ({*plan.mirror_axes, 0} if swap else plan.mirror_axes) if rng.random() < 0.5]
    matrix[:, flips] *= -1
    knots = _draw_knots(rng, plan, settings) if rng.random() < settings.grid_distortion_p else ((), (), ())
    control, step = None, (1.0, 1.0, 1.0)
    if rng.random() < settings.elastic_p:
        control, step = _draw_control(rng, plan, settings)
    spacing = np.array(plan.spacing_mm)
    edges = np.array(plan.patch)
    return SpatialDraw(
        centre=np.asarray(centre) - edges // 2 + (edges - 1) / 2,
        matrix=matrix * spacing[None, :] / spacing[:, None],
        knots=knots,
        control=control,
        control_step=step,
        swapped=swap if 0 in flips else (),
    )


def _draw_affine(rng: np.random.Generator, plan: Plan, settings: Augment) -> Floats:
    matrix = np.eye(3)
    if rng.random() < settings.rotate_p:
        limit = np.deg2rad(plan.rotate_degrees)
        for axis in plan.rotate_axes:
            matrix = matrix @ _rotation(axis, rng.uniform(-limit, limit))
    if rng.random() < settings.scale_p:
        zooms = rng.uniform(*settings.scale_range, size=3 if settings.scale_per_axis else 1)
        matrix = matrix @ np.diag(np.where(np.array(plan.patch) > 1, 1 / zooms, 1.0))
    if rng.random() < settings.rotate90_p:
        for axis in filter(lambda axis: _can_turn(plan, axis), plan.rotate_axes):
            matrix = matrix @ np.rint(_rotation(axis, rng.integers(4) * np.pi / 2))
    return matrix


def _rotation(axis: int, angle: float) -> Floats:
    a, b = (other for other in range(3) if other != axis)
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def _can_turn(plan: Plan, axis: int) -> bool:
    """Whether a quarter turn around the axis fits the patch; spacings that differ are interpolated."""
    a, b = (other for other in range(3) if other != axis)
    alike = np.isclose(plan.spacing_mm[a], plan.spacing_mm[b], rtol=1e-2)
    return bool(alike) and plan.patch[a] == plan.patch[b] > 1


def _moving_axes(plan: Plan) -> list[int]:
    """Return the axes that voxels may be displaced along: none across where rotations stay in plane."""
    fixed = plan.rotate_axes if len(plan.rotate_axes) == 1 else ()
    return [axis for axis in range(3) if plan.patch[axis] > 1 and axis not in fixed]


def _draw_knots(
    rng: np.random.Generator, plan: Plan, settings: Augment
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Stretch each cell by 1 - s to 1 + s, s < 1; the ends stay, and every step stays above 0."""
    strength = rng.uniform(*settings.grid_distortion_strength)
    moving = _moving_axes(plan)
    found: list[tuple[float, ...]] = [(), (), ()]
    for axis in moving:
        steps = 1 + rng.uniform(-strength, strength, settings.grid_distortion_cells)
        places = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum() - 0.5
        found[axis] = tuple((places * (plan.patch[axis] - 1)).tolist())
    return found[0], found[1], found[2]


def _draw_control(
    rng: np.random.Generator, plan: Plan, settings: Augment
) -> tuple[Floats | None, tuple[float, float, float]]:
    """Draw B-spline coefficients, evenly spread in mm, each at most 0.4 of their distance.

    A cubic B-spline field stays one to one while no coefficient exceeds 1 / 2.4795 of the distance between
    control points, in any direction (Choi and Lee 2000, theorem 1; 1 / 2.0464 in 2D).
    """
    moving = _moving_axes(plan)
    spacing = np.array(plan.spacing_mm)
    extents_mm = (np.array(plan.patch) - 1) * spacing
    if not moving:
        return None, (1.0, 1.0, 1.0)
    step_mm = extents_mm[moving].max() / settings.elastic_cells
    counts = [int(np.ceil(extent / step_mm - 1e-9)) + 3 if extent else 1 for extent in extents_mm]
    largest_mm = rng.uniform(*settings.elastic_strength) * step_mm
    control = np.zeros((3, *counts))
    control[moving] = rng.uniform(-largest_mm, largest_mm, (len(moving), *counts))
    i, j, k = (step_mm / spacing).tolist()
    return control / spacing[:, None, None, None], (i, j, k)
