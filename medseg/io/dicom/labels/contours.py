"""Masks as polygons and back, on one slice.

Coordinates are (column, row) in pixels; the centre of the first pixel is (0, 0), its corners lie at ±0.5.
`rasterise(trace(mask), mask.shape)` is `mask`: polygons run along the edges of pixels, so no centre is
nearer to them than half a pixel, which is also what a rounding of their coordinates may cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Corner = tuple[int, int]
Box = tuple[slice, slice]

ROUND_DIGITS = 6
"""Decimals of a pixel that count: rounding noise must not decide on which side of a centre an edge runs."""

MAX_CROSSINGS = 1 << 22  # at once, which takes about 150 MB

FORWARD = ((1, 0), (0, 1), (-1, 0), (0, -1))  # along the top, right, bottom, left edge of a pixel
OUTWARD = ((0, -1), (1, 0), (0, 1), (-1, 0))
START = ((0, 0), (1, 0), (1, 1), (0, 1))  # the corner where that edge starts, from the pixel's first corner


def rasterise(polygons: Sequence[Points], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels whose centres are enclosed by an odd number of polygons (even-odd rule).

    Polygons are closed from the last vertex to the first. A centre exactly on an edge belongs to the pixel
    right of it or below it, so that polygons that share an edge share no pixel. Two vertices or fewer
    enclose nothing; what lies outside the slice is cut off.

    Args:
        polygons: (N, 2) vertices each, finite.
        shape: (columns, rows).
    """
    mask = np.zeros(shape, dtype=bool)
    box, inside = fill(polygons, shape)
    mask[box] = inside
    return mask


def fill(polygons: Sequence[Points], shape: tuple[int, int]) -> tuple[Box, NDArray[np.bool_]]:
    """Return the part of a slice that polygons reach, and `rasterise` of it."""
    closed = [np.round(polygon, ROUND_DIGITS) for polygon in polygons if len(polygon)]
    if not closed:
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), dtype=bool)
    starts, ends = np.concatenate(closed), np.concatenate([np.roll(points, -1, 0) for points in closed])
    first = np.clip(np.ceil(starts.min(axis=0)), 0, shape).astype(np.intp)
    stop = np.clip(np.floor(starts.max(axis=0)) + 1, first, shape).astype(np.intp)
    size = stop - first
    toggles = np.zeros((size[0] + 1, size[1]), dtype=bool)  # one more column: crossings right of the box
    for column, row in _cross(starts, ends, first, stop):
        np.logical_xor.at(toggles, (column, row), True)
    box = slice(first[0], stop[0]), slice(first[1], stop[1])
    return box, np.logical_xor.accumulate(toggles, axis=0)[:-1]


def _cross(
    starts: Points, ends: Points, first: NDArray[np.intp], stop: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield where edges cross rows of centres, block by block: the next (column, row) to the right.

    Args:
        starts: (N, 2) first vertices of the edges.
        ends: (N, 2) second vertices.
        first: (column, row) where the box begins; crossings left of it are moved to its first column.
        stop: Where it ends; crossings right of it are moved behind its last column.
    """
    is_up = starts[:, 1] > ends[:, 1]  # both directions of one edge give the same rounding
    low, high = np.where(is_up[:, None], ends, starts), np.where(is_up[:, None], starts, ends)
    above, below = (np.clip(np.ceil(end[:, 1]), first[1], stop[1]).astype(np.intp) for end in (low, high))
    keep = below > above
    low, high, above, counts = low[keep], high[keep], above[keep], (below - above)[keep]
    slope = (high[:, 0] - low[:, 0]) / (high[:, 1] - low[:, 1])
    block = np.cumsum(counts) // MAX_CROSSINGS
    for number in np.unique(block):
        some = np.flatnonzero(block == number)
        count = counts[some]
        edge = np.repeat(some, count)
        row = above[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        column = np.ceil(low[edge, 0] + (row - low[edge, 1]) * slope[edge])
        yield np.clip(column, first[0], stop[0]).astype(np.intp) - first[0], row - first[1]


def trace(mask: NDArray[np.bool_]) -> list[Points]:
    """Return the outlines of a mask along the edges of its pixels, one per 4-connected component.

    Holes are joined to the outline around them by a channel of no width (keyhole, PS3.3 C.8.8.6.3), so a
    reader that unites contours and one that alternates inside and outside see the same.

    Args:
        mask: (columns, rows).

    Returns:
        (N, 2) vertices each: corners only, not closed by a repetition of the first; none for an empty mask.
    """
    if not mask.any():
        return []
    first = [int(np.flatnonzero(mask.any(axis=other))[0]) for other in (1, 0)]
    stop = [int(np.flatnonzero(mask.any(axis=other))[-1]) + 1 for other in (1, 0)]
    padded = np.pad(mask[first[0] : stop[0], first[1] : stop[1]], 1)
    offset = np.array(first) - 1.5  # corner (0, 0) of the padded mask, in pixels of the slice
    return [_drop_straight(loop) + offset for loop in _join_holes(_walk(padded), padded)]


def _walk(padded: NDArray[np.bool_]) -> list[list[Corner]]:
    """Return every boundary as the corners it passes, foreground on its right hand (rows run down).

    Where two foreground pixels touch at a corner only, the boundary stays at its own pixel.
    """
    rows = padded.shape[1]
    flat = padded.ravel()
    inside = np.flatnonzero(flat)
    following = np.full((flat.size, 4), -1)
    for side in range(4):
        ahead = FORWARD[side][0] * rows + FORWARD[side][1]
        beside = OUTWARD[side][0] * rows + OUTWARD[side][1]
        pixel = inside[~flat[inside + beside]]
        straight, diagonal = pixel + ahead, pixel + ahead + beside
        turn = np.where(flat[diagonal], diagonal * 4 + (side - 1) % 4, straight * 4 + side)
        following[pixel, side] = np.where(flat[straight], turn, pixel * 4 + (side + 1) % 4)
    edges = np.flatnonzero(following.ravel() >= 0)
    successor = np.searchsorted(edges, following.ravel()[edges]).tolist()
    column, row = np.divmod(edges // 4, rows)
    corner = np.array(START)[edges % 4]
    corners: list[Corner] = list(zip((column + corner[:, 0]).tolist(), (row + corner[:, 1]).tolist()))
    loops, seen = [], bytearray(len(edges))
    for start in range(len(edges)):
        loop, at = [], start
        while not seen[at]:
            seen[at] = 1
            loop.append(corners[at])
            at = successor[at]
        if loop:
            loops.append(loop)
    return loops


def _join_holes(loops: list[list[Corner]], padded: NDArray[np.bool_]) -> list[list[Corner]]:
    """Return the outer loops, each with the holes inside it spliced in.

    From the first corner of a hole (leftmost, then topmost) the edges to its left run between foreground
    pixels until they meet another boundary of the same component, and that one reaches farther left:
    going from right to left, every hole is complete before it is spliced into the next.
    """
    firsts = [min(loop) for loop in loops]
    is_hole = [_area(loop) < 0 for loop in loops]
    owner = {corner: number for number, loop in enumerate(loops) for corner in loop}
    for number in sorted(range(len(loops)), key=firsts.__getitem__, reverse=True):
        if not is_hole[number]:
            continue
        column, row = firsts[number]
        between = padded[:column, row - 1] & padded[:column, row]
        target = (int(np.flatnonzero(~between)[-1]) + 1, row)
        hole, parent = loops[number], loops[owner[target]]
        at = hole.index(firsts[number])
        way = [(step, row) for step in range(target[0], column)]
        splice = parent.index(target)
        parent[splice:splice] = [*way, *hole[at:], *hole[:at], (column, row), *reversed(way[1:])]
    return [loop for loop, inner in zip(loops, is_hole) if not inner]


def _area(loop: list[Corner]) -> float:
    """Return the signed area: negative for holes."""
    column, row = np.array(loop, dtype=np.float64).T
    return float(column @ np.roll(row, -1) - np.roll(column, -1) @ row) / 2


def _drop_straight(loop: list[Corner]) -> Points:
    """Return the vertices where the direction changes."""
    points = np.array(loop, dtype=np.float64)
    return points[np.any(np.roll(points, -1, 0) - points != points - np.roll(points, 1, 0), axis=1)]
