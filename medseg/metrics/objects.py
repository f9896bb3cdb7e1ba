"""The objects of two masks (lesions, cells), and which overlap which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import ConfigError
from medseg.metrics.pair import LabelMap, Mask, Pair

Sizes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects of the reference and of the prediction, counted from 0.

    Args:
        reference: (R,) voxels of each.
        predicted: (P,) voxels of each.
        pairs: (M, 2) those that share voxels.
        shared: (M,) how many.
    """

    reference: Sizes
    predicted: Sizes
    pairs: Sizes
    shared: Sizes


def find_objects(pair: Pair, *, connectivity: int = 26, min_volume_mm3: float = 0.0) -> Objects:
    """Return the objects of both masks: instances where the pair has them, else connected components.

    Args:
        pair: The two masks.
        connectivity: 6 (faces), 18 (edges) or 26 (corners); in a 2D image 6 acts as 4, the others as 8.
        min_volume_mm3: Smaller objects are left out of both sides.

    Raises:
        ConfigError: CONNECTIVITY_INVALID.
    """
    if connectivity not in (6, 18, 26):
        raise ConfigError(
            f"connectivity {connectivity} is unknown",
            hint="6 (faces), 18 (edges) or 26 (corners)",
            code="CONNECTIVITY_INVALID",
        )
    least = min_volume_mm3 * (1 - 1e-6) / (pair.voxel_volume_ml * 1000)
    if pair.instances:
        numbered = [_renumber(ids[pair.box]) for ids in pair.instances]
    else:
        numbered = [_number(mask, connectivity) for mask in pair.cropped]
    (reference, sizes_r), (predicted, sizes_p) = (_drop_small(*found, least) for found in numbered)
    is_shared = (reference > 0) & (predicted > 0)
    keys = (reference[is_shared].astype(np.int64) - 1) * max(len(sizes_p), 1) + predicted[is_shared] - 1
    found, shared = np.unique(keys, return_counts=True)
    pairs = np.stack(np.divmod(found, max(len(sizes_p), 1)), axis=1)
    return Objects(sizes_r, sizes_p, pairs, shared.astype(np.int64))


def _number(mask: Mask, connectivity: int) -> tuple[LabelMap, int]:
    import cc3d  # its path for bool refuses some lines of voxels that its path for uint8 takes

    numbers, count = cc3d.connected_components(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=connectivity, return_N=True
    )
    return numbers, int(count)


def _renumber(ids: LabelMap) -> tuple[LabelMap, int]:
    values, inverse = np.unique(ids, return_inverse=True)
    place = np.cumsum(values != 0) * (values != 0)
    return place[inverse].reshape(ids.shape), int(np.count_nonzero(values))


def _drop_small(numbers: NDArray[Any], count: int, least: float) -> tuple[LabelMap, Sizes]:
    """Return the objects of at least `least` voxels, numbered from 1, and their sizes."""
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    is_kept = sizes >= least
    table = np.concatenate([[0], np.cumsum(is_kept) * is_kept])
    return (numbers if is_kept.all() else table[numbers]), sizes[is_kept].astype(np.int64)
