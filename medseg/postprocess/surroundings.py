"""What a label may be near: lesions only in their organ, parts only on their whole.

The place that other labels are measured from is the mask of the labels named, all cavities filled: a lesion
takes its voxels out of the organ and is still in it. Distances are between voxel centres, in millimetres.
Where the scan holds none of the labels named, nothing is near them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.postprocess.components import CLOSE, LabelMap, find_components
from medseg.postprocess.holes import fill_holes

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]


def keep_inside(
    labels_IJK: LabelMap,
    geometry: Geometry,
    *,
    inside: Sequence[int],
    distance_mm: float = 0.0,
    labels: Sequence[int] | None = None,
) -> LabelMap:
    """Set voxels that are not inside certain labels, nor near them, to background.

    Args:
        labels_IJK: (I, J, K); 0 is background.
        geometry: The grid of `labels_IJK`.
        inside: Labels whose filled mask is the place to be in, such as organ and tumour for a tumour.
        distance_mm: Voxels at most so far outside stay.
        labels: Labels to work on; None is all. Those of `inside` are always inside.

    Returns:
        A new (I, J, K) array.
    """
    result = np.array(labels_IJK, order="C")
    judged = _select(result, labels)
    result[judged & ~_find_near(result, geometry, inside, distance_mm, judged)] = 0
    return result


def keep_touching(
    labels_IJK: LabelMap,
    geometry: Geometry,
    *,
    touching: Sequence[int],
    distance_mm: float = 0.0,
    labels: Sequence[int] | None = None,
    connectivity: int = 26,
) -> LabelMap:
    """Set components that do not touch certain labels, nor come near them, to background; others stay whole.

    Args:
        labels_IJK: (I, J, K); 0 is background.
        geometry: The grid of `labels_IJK`.
        touching: Labels of whose filled mask a component must touch a voxel, or hold one.
        distance_mm: Components that come at most so near stay too.
        labels: Labels to work on; None is all. Those of `touching` always stay.
        connectivity: What touches, and what is a component; as in `keep_largest`.

    Returns:
        A new (I, J, K) array.
    """
    found = find_components(labels_IJK, connectivity)
    judged = _select(labels_IJK, labels)
    near = _find_near(labels_IJK, geometry, touching, distance_mm, judged, connectivity=connectivity)
    stays = np.zeros(len(found.sizes), dtype=bool)
    stays[found.numbers[near & judged]] = True
    return found.keep(stays, labels)


def _select(labels_IJK: LabelMap, labels: Sequence[int] | None) -> Mask:
    return np.asarray(labels_IJK != 0 if labels is None else np.isin(labels_IJK, [n for n in labels if n]))


def _find_near(
    labels_IJK: LabelMap,
    geometry: Geometry,
    anchors: Sequence[int],
    distance_mm: float,
    judged: Mask,
    *,
    connectivity: int | None = None,
) -> Mask:
    """Return (I, J, K): whether a judged voxel is in the anchors' filled mask or near it; others may err.

    Near is within `distance_mm`, or a neighbour where `connectivity` is given. Only the box in which judged
    voxels can be near is looked at.
    """
    from scipy.ndimage import binary_dilation, distance_transform_edt, generate_binary_structure

    near = np.isin(labels_IJK, [n for n in anchors if n])
    box = _find_box(near, [1, 1, 1])  # a margin, so that an axis of one voxel is one of the image
    if box is None or not judged.any():
        return near
    near[box] = fill_holes(near[box].astype(np.uint8), geometry) != 0
    reach = [max(1, int(distance_mm / mm * (1 + CLOSE))) for mm in geometry.spacing_mm]
    box = _find_box(judged & ~near, reach)
    if box is None or not near[box].any():
        return near
    place = near[box].copy()
    if connectivity is not None:
        structure = generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
        near[box] |= binary_dilation(place, structure)
    if distance_mm > 0:
        distances_mm = distance_transform_edt(~place, sampling=geometry.spacing_mm)
        near[box] |= distances_mm <= distance_mm * (1 + CLOSE)
    return near


def _find_box(mask: Mask, margins: Sequence[int]) -> Box | None:
    """Return the box of a mask with so many voxels around it, within the image; None for an empty mask."""
    box = []
    for axis, margin in enumerate(margins):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not hits.size:
            return None
        box.append(slice(max(0, int(hits[0]) - margin), int(hits[-1]) + 1 + margin))
    return tuple(box)
