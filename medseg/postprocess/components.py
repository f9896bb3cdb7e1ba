"""Connected components of a label map, all labels in one pass.

Two voxels belong to one component if they touch and hold the same label. Volumes are voxel counts
times the voxel volume. Nothing depends on the order in which voxels are stored, so a flipped or
permuted map gives the flipped or permuted result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry

LabelMap = NDArray[np.integer[Any]]
CLOSE = 1e-6  # relative: a volume of exactly the threshold is not lost to the last bit of the affine


def keep_largest(
    labels_IJK: LabelMap,
    geometry: Geometry,
    *,
    labels: Sequence[int] | None = None,
    connectivity: int = 26,
) -> LabelMap:
    """Keep the largest component of each label; components that tie for the largest all stay.

    Args:
        labels_IJK: (I, J, K); 0 is background.
        geometry: The grid of `labels_IJK`.
        labels: Labels to work on; None is all, others stay as they are.
        connectivity: 6 (faces), 18 (edges) or 26 (corners); in a 2D image 6 acts as 4, the others as 8.

    Returns:
        A new (I, J, K) array.
    """
    found = find_components(labels_IJK, connectivity)
    values, group = np.unique(found.owners, return_inverse=True)
    largest = np.zeros(len(values), dtype=np.int64)
    np.maximum.at(largest, group, found.sizes)
    return found.keep(found.sizes == largest[group], labels)


def remove_small_components(
    labels_IJK: LabelMap,
    geometry: Geometry,
    *,
    min_volume_mm3: float,
    labels: Sequence[int] | None = None,
    connectivity: int = 26,
) -> LabelMap:
    """Set components smaller than `min_volume_mm3` to background, label by label.

    The threshold is a volume, not a voxel count, so it means the same at every spacing.

    Args:
        labels_IJK: (I, J, K); 0 is background.
        geometry: The grid of `labels_IJK`.
        min_volume_mm3: A component of exactly this volume is kept.
        labels: Labels to work on; None is all, others stay as they are.
        connectivity: As in `keep_largest`.

    Returns:
        A new (I, J, K) array.
    """
    found = find_components(labels_IJK, connectivity)
    return found.keep(found.sizes * geometry.voxel_volume_mm3 >= min_volume_mm3 * (1 - CLOSE), labels)


@dataclass(frozen=True, eq=False)
class Components:
    """Components numbered from 1; number 0 is background.

    Args:
        numbers: (I, J, K) component of each voxel.
        sizes: (N + 1,) voxels.
        owners: (N + 1,) label.
    """

    numbers: NDArray[np.unsignedinteger[Any]]
    sizes: NDArray[np.int64]
    owners: LabelMap

    def keep(self, wanted: NDArray[np.bool_], labels: Sequence[int] | None) -> LabelMap:
        """Return the label map of the components that are wanted, or whose label is not in `labels`."""
        if labels is not None:
            wanted = wanted | ~np.isin(self.owners, labels)
        table: LabelMap = np.where(wanted, self.owners, 0).astype(self.owners.dtype)
        return np.asarray(table[self.numbers])


def find_components(labels_IJK: LabelMap, connectivity: int = 26) -> Components:
    """Number the components of all labels.

    Raises:
        ConfigError: An unknown connectivity.
    """
    if connectivity not in (6, 18, 26):
        raise ConfigError(
            f"connectivity {connectivity} is unknown",
            hint="6 (faces), 18 (edges) or 26 (corners)",
            code="CONNECTIVITY_INVALID",
        )
    stored = np.ascontiguousarray(labels_IJK)
    numbers = cc3d.connected_components(stored, connectivity=connectivity)
    # Runs of one component along storage order are few, so sizes and labels come from them, not from voxels.
    flat = numbers.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    sizes = np.bincount(flat[starts], weights=np.diff(starts, append=flat.size)).astype(np.int64)
    owners = np.zeros(len(sizes), dtype=stored.dtype)
    owners[flat[starts]] = stored.ravel()[starts]
    return Components(numbers, sizes, owners)
