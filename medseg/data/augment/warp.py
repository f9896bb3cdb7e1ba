"""What a spatial draw says, done: the box that it touches is read, then resampled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medseg.data.augment.separable import bspline_matrix, multiply_axes
from medseg.data.augment.spatial import SpatialDraw


def find_box(draw: SpatialDraw, patch: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return start and stop, (3,) each, of a box of the case that holds every voxel the draw needs.

    A B-spline lies within the range of its coefficients; the rest of the map is largest at a corner.
    """
    half = (np.array(patch) - 1) / 2
    corners = np.array(np.meshgrid(*[(-h, h) for h in half])).reshape(3, -1)
    reached = draw.matrix @ corners
    low, high = reached.min(axis=1), reached.max(axis=1)
    if draw.control is not None:
        moves = draw.matrix @ draw.control.reshape(3, -1)
        low, high = low + moves.min(axis=1), high + moves.max(axis=1)
    start, stop = np.floor(low + draw.centre), np.ceil(high + draw.centre) + 1
    return start.astype(np.int64), stop.astype(np.int64)


def read_box(image: Any, label: Any, draw: SpatialDraw, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Read the part of a case that a draw touches, and no more.

    Args:
        image: (C, I, J, K), sliceable like numpy.
        label: (I, J, K), sliceable like numpy.
        draw: Where and how.
        patch: (3,) voxels.

    Returns:
        (C, *box) and (*box) in the arrays' own types; outside the case both are 0 (background).
    """
    start, stop = find_box(draw, patch)
    return torch.from_numpy(_read(image, start, stop)), torch.from_numpy(_read(label, start, stop))


def _read(array: Any, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[Any]:
    shape = np.array(array.shape[-3:])
    low, high = np.clip(start, 0, shape), np.clip(stop, 0, shape)
    lead = (slice(None),) * (len(array.shape) - 3)
    inside = np.asarray(array[(*lead, *(slice(int(a), int(b)) for a, b in zip(low, high)))])
    if (low == start).all() and (high == stop).all():
        return inside.copy()
    box = np.zeros((*array.shape[:-3], *(stop - start)), inside.dtype)
    box[(*lead, *(slice(int(a), int(b)) for a, b in zip(low - start, high - start)))] = inside
    return box


def apply_spatial(
    box_CIJK: Tensor, box_IJK: Tensor, draw: SpatialDraw, patch: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Resample the box that `read_box` gave, on the device that it lies on.

    Args:
        box_CIJK: Image, of any floating type.
        box_IJK: Classes, uint8.
        draw: The draw that the box was read for.
        patch: (3,) voxels.

    Returns:
        (C, *patch) float32 and (*patch) uint8; a draw that is plain copies values exactly.
    """
    if draw.is_plain:
        image, label = _turn(box_CIJK.float(), draw), _turn(box_IJK, draw)
    else:
        points = _sampling_points(draw, patch, box_CIJK.device)
        image = functional.grid_sample(box_CIJK[None].float(), points, align_corners=False)[0]
        nearest = functional.grid_sample(
            box_IJK[None, None].float(), points, mode="nearest", align_corners=False
        )
        label = nearest[0, 0].to(torch.uint8)
    if draw.swapped:
        label = _swap(label, draw)
    return image, label


def _turn(box: Tensor, draw: SpatialDraw) -> Tensor:
    """Permute and flip the last three axes: patch axis a runs along the case axis of its column."""
    lead = box.ndim - 3
    sources = np.abs(draw.matrix).argmax(axis=0)
    turned = box.permute(*range(lead), *(lead + int(source) for source in sources))
    flips = [lead + axis for axis, source in enumerate(sources) if draw.matrix[source, axis] < 0]
    return turned.flip(flips).contiguous()


def _swap(label: Tensor, draw: SpatialDraw) -> Tensor:
    table = torch.arange(256, dtype=torch.uint8)
    for one, other in draw.swapped:
        table[one], table[other] = other, one
    return table.to(label.device, non_blocking=True)[label.long()]


def _sampling_points(draw: SpatialDraw, patch: Sequence[int], device: torch.device) -> Tensor:
    """Return the (1, *patch, 3) grid for grid_sample: normalised box coordinates, last axis first."""
    start, stop = find_box(draw, patch)
    to_unit = 2 / (stop - start)  # voxel v of n lies at (2 v + 1) / n - 1
    matrix = draw.matrix * to_unit[:, None]
    shift = (draw.centre - start) * to_unit + 1 / (stop - start) - 1
    places = [_distort(edge, knots) for edge, knots in zip(patch, draw.knots)]
    # Per axis one product, broadcast: three adds a voxel instead of a matrix product with a meshgrid.
    parts = [_to_device(np.multiply.outer(matrix[:, axis], places[axis]), device) for axis in range(3)]
    i, j, k = parts[0][:, :, None, None], parts[1][:, None, :, None], parts[2][:, None, None, :]
    points = _to_device(shift, device)[:, None, None, None] + i + j + k
    if draw.control is not None:
        control = _to_device(np.tensordot(matrix, draw.control, 1), device)
        counts = draw.control.shape[1:]
        points += multiply_axes(
            control,
            [
                bspline_matrix(place / step + (count - 3) / 2, count)
                for place, step, count in zip(places, draw.control_step, counts)
            ],
        )
    return points.flip(0).permute(1, 2, 3, 0)[None]


def _distort(edge: int, knots: Sequence[float]) -> NDArray[np.float64]:
    """Return where the voxels of an axis go, from the patch's middle."""
    places = np.arange(edge, dtype=np.float64) - (edge - 1) / 2
    if not knots:
        return places
    return np.asarray(np.interp(places, np.linspace(places[0], places[-1], len(knots)), knots))


def _to_device(array: NDArray[np.float64], device: torch.device) -> Tensor:
    # Not blocking: a GPU would have to end the step before. CUDA takes a small array over before it returns.
    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device, non_blocking=True)
