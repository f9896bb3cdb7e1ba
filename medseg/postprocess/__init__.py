"""Clean a label map. A step is `(labels_IJK, geometry, *, options) -> labels_IJK`.

Every step returns a new array of the same type, invents no label, and does not depend on how the map
is stored: flips and permuted axes give the flipped and permuted result.
"""

from collections.abc import Callable, Iterable

from medseg.core.geometry import Geometry
from medseg.postprocess.components import LabelMap, keep_largest, remove_small_components
from medseg.postprocess.holes import fill_holes
from medseg.postprocess.surroundings import keep_inside, keep_touching

POSTPROCESS: dict[str, Callable[..., LabelMap]] = {
    "keep_largest": keep_largest,
    "remove_small_components": remove_small_components,
    "fill_holes": fill_holes,
    "keep_inside": keep_inside,
    "keep_touching": keep_touching,
}

__all__ = ["POSTPROCESS", "LabelMap", "apply"]


def apply(
    steps: Iterable[Callable[[LabelMap, Geometry], LabelMap]], labels_IJK: LabelMap, geometry: Geometry
) -> LabelMap:
    """Run the steps in order, each with its options bound, as `select` returns it."""
    for step in steps:
        labels_IJK = step(labels_IJK, geometry)
    return labels_IJK
