"""Post-processing of a mask (i, j, k) of label values; connected components without any package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scans import find_spacing

Array = NDArray[Any]
CLOSE = 1e-6  # relative: a volume of exactly a threshold is not lost to rounding


def pair_up(step: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of all voxels that have a neighbour one `step` on, and of these neighbours."""
    here = tuple(slice(None, -1) if n > 0 else slice(1, None) if n < 0 else slice(None) for n in step)
    there = tuple(slice(1, None) if n > 0 else slice(None, -1) if n < 0 else slice(None) for n in step)
    return here, there


def find_components(mask: Array, connectivity: int) -> tuple[Array, Array, Array]:
    """Return the number of each voxel's component, and the voxels and the label of each number.

    Runs of equal voxels along the last axis are joined where they touch; a component is called by its first.
    """
    starts = np.ones(mask.shape, bool)
    starts[..., 1:] = mask[..., 1:] != mask[..., :-1]
    runs = np.cumsum(starts).reshape(mask.shape) - 1
    heads = np.flatnonzero(starts)
    lengths, owners = np.diff(heads, append=mask.size), mask.ravel()[heads]
    touching = [np.zeros(0, np.int64)]
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    for step in product((-1, 0, 1), repeat=3):
        if step > (0, 0, 1) and sum(map(abs, step)) <= reach:
            here, there = pair_up(step)
            same = (mask[here] == mask[there]) & (mask[here] != 0)
            touching.append(np.unique(runs[here][same] * len(heads) + runs[there][same]))
    a, b = np.divmod(np.concatenate(touching), len(heads))
    root = np.arange(len(heads))
    while (root[a] != root[b]).any():
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        np.minimum.at(root, high, low)
        while (root != root[root]).any():
            root = root[root]
    sizes = np.bincount(root, weights=lengths, minlength=len(heads)).astype(np.int64)
    return root[runs], sizes, owners


def keep_largest(mask: Array, _: float, labels: Any = None, connectivity: int = 26, **__: Any) -> Array:
    """Keep the largest component of each label, and what ties with it."""
    numbers, sizes, owners = find_components(mask, connectivity)
    largest = {value: sizes[owners == value].max() for value in np.unique(owners)}
    wanted = sizes == np.array([largest[value] for value in owners])
    return np.asarray(np.where(wanted | is_exempt(owners, labels), owners, 0)[numbers])


def remove_small_components(
    mask: Array, voxel_mm3: float, min_volume_mm3: float, labels: Any = None, connectivity: int = 26, **_: Any
) -> Array:
    """Set components below a volume to background."""
    numbers, sizes, owners = find_components(mask, connectivity)
    wanted = sizes * voxel_mm3 >= min_volume_mm3 * (1 - CLOSE)
    return np.asarray(np.where(wanted | is_exempt(owners, labels), owners, 0)[numbers])


def is_exempt(owners: Array, labels: Any) -> Array:
    """Say which components a step leaves alone."""
    return np.zeros(len(owners), bool) if labels is None else ~np.isin(owners, labels)


def fill_holes(
    mask: Array,
    voxel_mm3: float,
    max_volume_mm3: float | None = None,
    labels: Any = None,
    flat: Any = (),
    **_: Any,
) -> Array:
    """Give background that a single label encloses this label; `flat`: axes of one voxel have no border."""
    numbers, sizes, owners = find_components((mask == 0).astype(np.uint8), 6)
    is_cavity = owners == 1
    deep = [axis for axis in range(3) if axis not in flat]
    for axis, end in product(deep, (0, -1)):
        is_cavity[np.take(numbers, end, axis)] = False
    low, high = np.full(len(sizes), np.iinfo(mask.dtype).max, mask.dtype), np.zeros(len(sizes), mask.dtype)
    for axis, sign in product(deep, (1, -1)):
        here, there = pair_up([sign if axis == other else 0 for other in range(3)])
        wall = is_cavity[numbers[here]] & (mask[there] != 0)
        np.minimum.at(low, numbers[here][wall], mask[there][wall])
        np.maximum.at(high, numbers[here][wall], mask[there][wall])
    fill = np.where(low == high, high, 0).astype(mask.dtype)
    if labels is not None:
        fill[~np.isin(fill, labels)] = 0
    if max_volume_mm3 is not None:
        fill[sizes * voxel_mm3 > max_volume_mm3 * (1 + CLOSE)] = 0
    return np.where(is_cavity[numbers], fill[numbers], mask)


def keep_inside(mask: Array, _: float, inside: Any, labels: Any = None, **options: Any) -> Array:
    """Set voxels to background that are neither in the filled mask of some labels nor near it."""
    judged = choose(mask, labels)
    return np.where(judged & ~find_near(mask, inside, **options), 0, mask)


def keep_touching(
    mask: Array, _: float, touching: Any, labels: Any = None, connectivity: int = 26, **options: Any
) -> Array:
    """Set components to background that neither touch the filled mask of some labels nor come near it."""
    numbers, sizes, owners = find_components(mask, connectivity)
    near = find_near(mask, touching, connectivity, **options)
    stays = np.zeros(len(sizes), bool)
    stays[numbers[near & choose(mask, labels)]] = True
    return np.asarray(np.where(stays | is_exempt(owners, labels), owners, 0)[numbers])


def choose(mask: Array, labels: Any) -> Array:
    """Return which voxels a step works on."""
    return np.asarray(mask != 0 if labels is None else np.isin(mask, [n for n in labels if n]))


def find_near(
    mask: Array,
    anchors: Any,
    connectivity: int = 0,
    distance_mm: float = 0.0,
    flat: Any = (),
    spacing_mm: Sequence[float] = (),
) -> Array:
    """Return which voxels lie in the filled mask of labels, touch it (0: none do), or are near it."""
    place = np.isin(mask, [n for n in anchors if n])
    place = fill_holes(place.astype(np.uint8), 1.0, flat=flat) != 0
    near, reach = place.copy(), {0: 0, 6: 1, 18: 2, 26: 3}[connectivity]
    for step in product((-1, 0, 1), repeat=3):
        if 0 < sum(map(abs, step)) <= reach:
            here, there = pair_up(step)
            near[here] |= place[there]
    square = np.where(place, 0.0, np.inf)  # of the distance, exact as far as it matters: axis by axis
    for axis, mm in enumerate(spacing_mm):
        before = np.moveaxis(square.copy(), axis, 0)
        after = np.moveaxis(square, axis, 0)
        for n in range(1, min(int(distance_mm / mm * (1 + CLOSE)), mask.shape[axis] - 1) + 1):
            np.minimum(after[n:], before[:-n] + (n * mm) ** 2, out=after[n:])
            np.minimum(after[:-n], before[n:] + (n * mm) ** 2, out=after[:-n])
    return np.asarray(near | (square <= (distance_mm * (1 + CLOSE)) ** 2))


STEPS: dict[str, Callable[..., Array]] = {
    "keep_largest": keep_largest,
    "remove_small_components": remove_small_components,
    "fill_holes": fill_holes,
    "keep_inside": keep_inside,
    "keep_touching": keep_touching,
}


def clean(mask: Array, steps: Sequence[Any], affine: Array) -> Array:
    """Run the steps, in the box around all labels: nothing beyond it changes."""
    voxel_mm3, spacing_mm = float(abs(np.linalg.det(affine[:3, :3]))), find_spacing(affine)
    flat = [axis for axis in range(3) if mask.shape[axis] == 1]
    for step in steps:
        if mask.any():
            box = tuple(slice(int(line.min()), int(line.max()) + 1) for line in np.nonzero(mask))
            run = STEPS[step["name"]]
            mask[box] = run(mask[box], voxel_mm3, flat=flat, spacing_mm=spacing_mm, **step["options"])
    return mask
