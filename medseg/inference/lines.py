"""Linear interpolation along one axis, written as cells between neighbouring samples.

It says the same as `medseg.data.resample.spline_matrix` of order 0 or 1, sample by sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.data.resample import Orders, spline_matrix


@dataclass(frozen=True, eq=False)
class Line:
    """Where the new samples of an axis lie among the old ones.

    Args:
        cell: (n_out,) ascending: the old sample before a new one, or the only one that it takes.
        low: (n_out,) weight of that sample.
        high: (n_out,) weight of the next one, where the axis is linear.
        is_linear: Whether new samples lie between two old ones; else each is a copy of one.
        n_in: Old samples.
    """

    cell: NDArray[np.intp]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    is_linear: bool
    n_in: int

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.n_in - 1 if self.is_linear else self.n_in

    def find(self, first: int, last: int) -> slice:
        """Return the new samples of cells first <= cell < last."""
        start, stop = np.searchsorted(self.cell, (first, last))
        return slice(int(start), int(stop))


def make_line(n_in: int, n_out: int, order: int) -> Line:
    """Return the line of an axis that is resampled from `n_in` to `n_out` samples; order 0 or 1."""
    ones, zeros = np.ones(n_out, np.float32), np.zeros(n_out, np.float32)
    if n_in == n_out:
        return Line(np.arange(n_in), ones, zeros, False, n_in)
    matrix = spline_matrix(n_in, n_out, order)
    if order == 0 or n_in == 1:
        return Line(matrix.argmax(axis=1), ones, zeros, False, n_in)
    cell = np.minimum((matrix != 0).argmax(axis=1), n_in - 2)
    rows = np.arange(n_out)
    return Line(cell, matrix[rows, cell], matrix[rows, cell + 1], True, n_in)


def make_lines(
    shape_in: tuple[int, ...], shape_out: tuple[int, ...], orders: Orders, axis: int
) -> tuple[Line, Line, Line]:
    """Return the lines of all axes, the slab axis first."""
    lines = [make_line(*ends) for ends in zip(shape_in, shape_out, orders, strict=True)]
    first = lines.pop(axis)
    return first, lines[0], lines[1]
