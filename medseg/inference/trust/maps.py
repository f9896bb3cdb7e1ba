"""Maps of entropy and disagreement on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.data.preprocess import Placement
from medseg.data.resample import resample_image
from medseg.inference.trust.observer import Slab, measure_entropy, split_planes, to_probabilities


class Maps:
    """Collects both maps on the preprocessed grid, in float16: 4 bytes a voxel, whatever the classes."""

    def __init__(self, shape: Sequence[int], temperatures: Sequence[float], *, is_regions: bool) -> None:
        """Start empty.

        Args:
            shape: (3,) of the preprocessed grid.
            temperatures: That the entropy is taken at; (1,) where the model is not calibrated.
            is_regions: Whether structures overlap.
        """
        self._temperatures, self._is_regions = tuple(temperatures), is_regions
        self._entropy = np.zeros(tuple(shape), np.float16)
        self._disagreement = np.zeros(tuple(shape), np.float16)

    def observe(self, slab: Slab) -> None:
        """Add the planes of a slab."""
        for first, logits, apart in split_planes(slab):
            p = to_probabilities(logits, self._temperatures, is_regions=self._is_regions)
            entropy = measure_entropy(p, is_regions=self._is_regions).clamp(0, 1)
            part = slice(first, first + logits.shape[1])
            np.moveaxis(self._entropy, slab.axis, 0)[part] = entropy.cpu().numpy()
            if apart is not None:
                np.moveaxis(self._disagreement, slab.axis, 0)[part] = apart.clamp(0, 1).cpu().numpy()

    def restore(self, placement: Placement) -> dict[str, NDArray[np.float32]]:
        """Return name -> (I, J, K) in 0..1 on the scan's grid; outside the kept box 0."""
        return {
            "entropy": _restore(self._entropy, placement),
            "disagreement": _restore(self._disagreement, placement),
        }


def _restore(map_IJK: NDArray[np.float16], placement: Placement) -> NDArray[np.float32]:
    box = resample_image(map_IJK[None], placement.box_shape, orders=placement.linear_orders)[0]
    whole = np.zeros(placement.canonical.shape, np.float32)
    whole[tuple(slice(a, b) for a, b in zip(placement.start, placement.stop))] = box
    return placement.to_stored(whole)
