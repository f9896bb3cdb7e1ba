"""Surfaces as small planes with an area, the optional definition of Nikolov et al. 2018 (arXiv:1809.04430).

The surface runs half way between a voxel inside the mask and a neighbour outside. Around each point where
eight voxels meet (in 2D four), marching cubes (Lorensen and Cline 1987) cuts a cell whose corners are those
voxels' centres; the cut's area (in 2D its length) belongs to that point, and distances are measured between
points. Beyond the image border is outside. Where two corners inside touch across a diagonal only, they are
cut off separately; a cell with more than four corners inside is cut as its complement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.nearest import measure_distances

Corner = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Surfels:
    """The surface of one mask: (N,) areas in mm2 (2D: lengths in mm), and distances to the other surface."""

    areas: NDArray[np.float64]
    distances_mm: NDArray[np.float64]


def match_surfels(
    reference: NDArray[np.bool_], predicted: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> tuple[Surfels, Surfels]:
    """Return the surface elements of both masks.

    Args:
        reference: (I, J, K); an axis of one voxel has no surface across it, as in `pair`.
        predicted: (I, J, K).
        spacing_mm: (3,).
    """
    axes = [axis for axis in range(3) if reference.shape[axis] != 1] or [0, 1, 2]
    steps = tuple(float(spacing_mm[axis]) for axis in axes)
    sizes = tabulate_cuts(steps)
    codes = [
        encode_cells(mask.reshape([mask.shape[axis] for axis in axes])) for mask in (reference, predicted)
    ]
    cut = [(code > 0) & (code < len(sizes) - 1) for code in codes]
    return (
        Surfels(sizes[codes[0][cut[0]]], measure_distances(cut[0], cut[1], steps)),
        Surfels(sizes[codes[1][cut[1]]], measure_distances(cut[1], cut[0], steps)),
    )


def encode_cells(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return which corners of each cell are inside, as bits in the order of `itertools.product`.

    Args:
        mask: (N, ...); the result is one longer along each axis.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([size + 1 for size in mask.shape], np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        codes |= padded[tuple(slice(at, at + size) for at, size in zip(corner, codes.shape))] << bit
    return codes


@lru_cache(maxsize=16)
def tabulate_cuts(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the size of the cut of every cell code: an area in 3D, a length in 2D, 1 in 1D."""
    corners = list(product((0, 1), repeat=len(spacing_mm)))
    sizes = np.zeros(1 << len(corners))
    for code in range(len(sizes)):
        inside = {corner for bit, corner in enumerate(corners) if code >> bit & 1}
        if 2 * len(inside) > len(corners):
            inside = set(corners) - inside
        sizes[code] = sum(_CUTS[len(spacing_mm)](piece, spacing_mm) for piece in _divide(inside))
    return sizes


def _divide(corners: set[Corner]) -> list[list[Corner]]:
    """Return the groups of corners that cell edges connect."""
    left, pieces = set(corners), []
    while left:
        piece = [left.pop()]
        for corner in piece:
            piece += (near := [other for other in left if _count_steps(corner, other) == 1])
            left -= set(near)
        pieces.append(piece)
    return pieces


def _count_steps(one: Corner, other: Corner) -> int:
    return sum(a != b for a, b in zip(one, other))


def _cut_line(piece: list[Corner], spacing_mm: tuple[float, ...]) -> float:
    return 1.0


def _cut_square(piece: list[Corner], spacing_mm: tuple[float, ...]) -> float:
    """Return the length that cuts off a corner, or the two corners of an edge."""
    if len(piece) == 1:
        return math.hypot(*spacing_mm) / 2
    return spacing_mm[0] if piece[0][0] != piece[1][0] else spacing_mm[1]


def _cut_cube(piece: list[Corner], spacing_mm: tuple[float, ...]) -> float:
    """Return the area that cuts off one to four connected corners.

    `tilted(axes)` is the area of a plane whose shadow along each of `axes` is a whole cell face. One corner
    is cut by a triangle, two by a rectangle, three by a triangle and a trapezoid, four by a cell face, a
    hexagon around a corner, or four triangles along a chain.
    """
    i, j, k = spacing_mm
    faces = (j * k, i * k, i * j)

    def tilted(*axes: int) -> float:
        return float(np.sqrt(sum(faces[axis] ** 2 for axis in axes)))

    flat = [axis for axis in range(3) if len({corner[axis] for corner in piece}) == 1]
    everywhere = tilted(0, 1, 2)
    if len(piece) == 1:
        return everywhere / 8
    if len(piece) == 2:
        return tilted(*flat) / 2
    if len(piece) == 3:
        return tilted(*flat) / 2 + everywhere * 3 / 8
    if flat:
        return tilted(*flat)
    near = {corner: [other for other in piece if _count_steps(corner, other) == 1] for corner in piece}
    middle = [corner for corner in piece if len(near[corner]) > 1]
    if len(middle) == 1:
        return everywhere * 6 / 8
    axis = next(axis for axis in range(3) if middle[0][axis] != middle[1][axis])
    return everywhere / 2 + sum(tilted(axis, other) for other in range(3) if other != axis) / 4


_CUTS = {1: _cut_line, 2: _cut_square, 3: _cut_cube}
