"""One layer of cells between two neighbouring planes, and the new voxels that lie in it.

Trilinear interpolation is convex: a class that lies below some mixture of classes at all corners of a cell
cannot win inside it. So where all corners agree the class is known without interpolation, and elsewhere few
classes are left to compare.

Shape legend: C classes, (P, Q) voxels of a plane, (X, Y) new voxels of a plane, N nodes (voxels that touch an
undecided cell), K corners of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.inference.lines import Line

Float = NDArray[np.float32]
BLOCK = 1 << 22  # logits of cells held at once: 16 MB


@dataclass(frozen=True, eq=False)
class Plane:
    """Logits of one plane.

    Args:
        logits: (C, P, Q) float32.
    """

    logits: Float

    def keep(self) -> Plane:
        """Return a copy that outlives the slab."""
        kept = Plane(self.logits.copy())
        if "classes" in self.__dict__:
            kept.__dict__["classes"] = self.classes
        return kept

    @cached_property
    def classes(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """(P, Q) class with the largest logit; of equals the lowest."""
        kind = np.uint8 if len(self.logits) <= 256 else np.uint16
        best = self.logits[0].copy()
        found = np.zeros(best.shape, kind)
        wins, number = np.empty(best.shape, bool), np.empty(best.shape, kind)
        for index in range(1, len(self.logits)):  # numpy's own argmax across planes is ten times slower
            np.greater(self.logits[index], best, out=wins)
            np.maximum(best, self.logits[index], out=best)
            np.multiply(wins, kind(index), out=number)
            np.maximum(found, number, out=found)
        return found


@dataclass(frozen=True, eq=False)
class Layer:
    """Where cells and new voxels of a layer lie; the same for all layers between two planes.

    Args:
        rows, columns: Lines of the axes of a plane.
    """

    rows: Line
    columns: Line

    @cached_property
    def corners(self) -> NDArray[np.intp]:
        """(K,) position in a flat plane of each corner of a cell, counted from its first."""
        steps = [0, 1] if self.columns.is_linear else [0]
        return np.array([p * self.columns.n_in + q for p in range(1 + self.rows.is_linear) for q in steps])

    def agree(self, maps: Sequence[NDArray[np.generic]]) -> NDArray[np.bool_]:
        """Return (rows.cells, columns.cells): whether all corners hold the same value, on all (P, Q) maps."""
        first = maps[0]
        same = np.ones(first.shape, bool)
        for other in maps[1:]:
            same &= first == other
        if self.rows.is_linear:
            same = same[:-1] & same[1:] & (first[:-1] == first[1:])
            first = first[:-1]
        if self.columns.is_linear:
            same = same[:, :-1] & same[:, 1:] & (first[:, :-1] == first[:, 1:])
        return same

    def spread(self, map_PQ: NDArray[Any], rows: slice = slice(None)) -> NDArray[Any]:
        """Return (X, Y): the value of the first corner of each new voxel's cell."""
        return map_PQ[self.rows.cell[rows]].take(self.columns.cell, axis=1)

    def weigh(self, voxels: NDArray[np.intp], rows: slice) -> Float:
        """Return (V, K) corner weights of flat (X, Y) new voxels, counted from the first of `rows`."""
        row, column = np.divmod(voxels, len(self.columns.cell))
        parts = [
            [line.low[at], line.high[at]] if line.is_linear else [line.low[at]]
            for line, at in ((self.rows, row + rows.start), (self.columns, column))
        ]
        return np.stack([first * second for first in parts[0] for second in parts[1]], axis=1)

    def split(self, undecided: NDArray[np.bool_], limit: int) -> Iterator[slice]:
        """Yield runs of cell rows with at most `limit` undecided cells, or of one row; empty ones not."""
        counts = undecided.sum(axis=1)
        start = total = 0
        for row, count in enumerate(counts.tolist()):
            if total and total + count > limit:
                yield slice(start, row)
                start, total = row, 0
            total += count
        if total:
            yield slice(start, len(counts))


def compare_classes(
    layer: Layer, planes: Sequence[Plane], weights: NDArray[np.float32]
) -> NDArray[np.generic]:
    """Return (n, X, Y): the class with the highest interpolated logit in each new plane of a layer.

    Args:
        layer: Of this axis.
        planes: The one or two that bound it.
        weights: (n, planes) of the planes for each new plane.
    """
    maps = [plane.classes for plane in planes]
    undecided = ~layer.agree(maps)
    decided = layer.spread(maps[0])
    result = np.repeat(decided[None], len(weights), axis=0)
    limit = max(1, BLOCK // (len(planes[0].logits) * len(layer.corners) * len(planes)))
    for block in layer.split(undecided, limit):
        rows = layer.rows.find(block.start, block.stop)
        cells = np.zeros_like(undecided)
        cells[block] = undecided[block]
        _compare_block(layer, planes, weights, cells, result[:, rows], rows)
    return result


def _compare_block(
    layer: Layer,
    planes: Sequence[Plane],
    weights: Float,
    cells: NDArray[np.bool_],
    result: NDArray[np.generic],
    rows: slice,
) -> None:
    """Decide the new voxels of some cells, in place."""
    numbers = np.full(cells.shape, -1, np.int32)
    count = int(cells.sum())
    numbers[cells] = np.arange(count, dtype=np.int32)
    own = layer.spread(numbers, rows).ravel()
    voxels = np.flatnonzero(own >= 0)
    if not voxels.size:
        return  # fewer new voxels than old ones: none lies there
    p, q = np.nonzero(cells)
    nodes, at = _find_nodes((p * layer.columns.n_in + q)[:, None] + layer.corners, planes[0])
    values = [_gather(plane, nodes) for plane in planes]
    winners = [plane.classes.ravel()[nodes][at] for plane in planes]
    pairs, classes = np.nonzero(_find_candidates(values, at, np.concatenate(winners, axis=1)))
    scores = [value[at[pairs], classes[:, None]] for value in values]
    counts = np.bincount(pairs, minlength=count)
    first = (np.cumsum(counts) - counts)[own[voxels]]
    counts, shares = counts[own[voxels]], layer.weigh(voxels, rows)
    for plane, share in zip(result, weights, strict=True):
        mixed = sum(part * weight for part, weight in zip(scores, share, strict=True))
        flat = np.array(plane).ravel()
        flat[voxels] = _choose(mixed, classes, first, counts, shares)
        plane[...] = flat.reshape(plane.shape)


def _find_nodes(corners: NDArray[np.intp], plane: Plane) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return (N,) flat positions of all corners, each once, and (cells, K) where in them each corner is."""
    used = np.zeros(plane.classes.size, bool)
    used[corners.ravel()] = True
    nodes = np.flatnonzero(used)
    place = np.zeros(used.size, np.intp)
    place[nodes] = np.arange(len(nodes))
    return nodes, place[corners]


def _gather(plane: Plane, nodes: NDArray[np.intp]) -> Float:
    """Return (N, C) logits."""
    flat = plane.logits.reshape(len(plane.logits), -1)
    return np.ascontiguousarray(flat[:, nodes].T)


def _find_candidates(
    values: Sequence[Float], at: NDArray[np.intp], winners: NDArray[np.generic]
) -> NDArray[np.bool_]:
    """Return (cells, C): classes that do not lie below the mean of the corners' winners at every corner."""
    found = np.zeros((len(at), values[0].shape[1]), bool)
    for value in values:
        for corner in at.T:
            mean = value[corner[:, None], winners].mean(axis=1)
            found |= value[corner] >= mean[:, None]
    found[np.arange(len(at))[:, None], winners] = True  # also where rounding lifts the mean above them
    return found


def _choose(
    scores: Float,
    classes: NDArray[np.intp],
    first: NDArray[np.intp],
    counts: NDArray[np.intp],
    shares: Float,
) -> NDArray[np.intp]:
    """Return the best class of each voxel.

    Args:
        scores: (pairs, K) of a cell's candidates, one after the other.
        classes: (pairs,) ascending within a cell.
        first: (V,) where a voxel's candidates begin.
        counts: (V,) how many it has.
        shares: (V, K) weights of the corners.
    """
    best = np.einsum("vk,vk->v", scores[first], shares)
    chosen = classes[first]
    for turn in range(1, int(counts.max())):
        open_ = np.flatnonzero(counts > turn)
        score = np.einsum("vk,vk->v", scores[first[open_] + turn], shares[open_])
        wins = score > best[open_]
        winners = open_[wins]
        best[winners], chosen[winners] = score[wins], classes[first[winners] + turn]
    return chosen


def compare_regions(
    layer: Layer, planes: Sequence[Plane], weights: Float, paints: Sequence[int]
) -> NDArray[np.uint8]:
    """Return (n, X, Y): what overlapping regions paint, later ones on top, where their logit is above 0.

    Args:
        layer: Of this axis.
        planes: The one or two that bound it.
        weights: (n, planes) of the planes for each new plane.
        paints: The class that each region paints.
    """
    shape = (len(weights), len(layer.rows.cell), len(layer.columns.cell))
    result = np.zeros(shape, np.uint8)
    for region, paint in enumerate(paints):
        maps = [plane.logits[region] > 0 for plane in planes]
        undecided = layer.spread(~layer.agree(maps)).ravel()
        voxels = np.flatnonzero(undecided)
        row, column = np.divmod(voxels, shape[2])
        nodes = (layer.rows.cell[row] * layer.columns.n_in + layer.columns.cell[column])[:, None]
        shares = layer.weigh(voxels, slice(0, shape[1]))
        inside = layer.spread(maps[0]).ravel()
        for plane, share in zip(result, weights, strict=True):
            mixed = sum(part.logits[region].ravel() * weight for part, weight in zip(planes, share))
            inside[voxels] = np.einsum("vk,vk->v", mixed[nodes + layer.corners], shares) > 0
            plane[inside.reshape(plane.shape)] = paint
    return result


def interpolate(layer: Layer, mixed_CPQ: Float, rows: slice, columns: slice = slice(None)) -> Float:
    """Return (C, X, Y) interpolated values of some new rows and columns of a plane."""
    lines = (layer.rows, 1, rows), (layer.columns, 2, columns)
    for line, axis, part in lines:
        cell = line.cell[part]
        view = [1, 1, 1]
        view[axis] = len(cell)
        lower = mixed_CPQ.take(cell, axis=axis)
        if line.is_linear:
            lower *= line.low[part].reshape(view)
            lower += mixed_CPQ.take(cell + 1, axis=axis) * line.high[part].reshape(view)
        mixed_CPQ = lower
    return mixed_CPQ
