"""A balanced sample of one out-of-fold case's voxels, to calibrate on.

Nearly all voxels of a scan are background that no network doubts; a plain sample would measure those.
Of each case at most `NEAR` voxels are drawn where foreground is or might be: predicted foreground, and
all within `BAND_MM` (along each axis) of true foreground; and at most `FAR` of the others. Which ones is
decided by random numbers of the plane's place in the grid, so that slabs may be cut anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.inference.trust.observer import Slab, split_planes

BAND_MM = 5.0
NEAR, FAR = 800, 200


class Sampler:
    """Collects logits and truth of a sample; call `observe` with every slab, along one axis."""

    def __init__(
        self,
        classes_IJK: NDArray[np.uint8],
        spacing_mm: Sequence[float],
        n_outputs: int,
        regions: Sequence[tuple[int, ...]] = (),
    ) -> None:
        """Find the band.

        Args:
            classes_IJK: True classes on the preprocessed grid.
            spacing_mm: (3,) of it.
            n_outputs: F.
            regions: The classes that each region covers; () where classes exclude each other.
        """
        self._classes, self._n, self._regions = classes_IJK, n_outputs, tuple(regions)
        self._band = widen(classes_IJK > 0, [math.ceil(BAND_MM / step) for step in spacing_mm])
        self._kept = {True: self._nothing(), False: self._nothing()}

    def _nothing(self) -> tuple[NDArray[np.float64], NDArray[np.float16], NDArray[np.uint8]]:
        return np.empty(0), np.empty((0, self._n), np.float16), np.empty(0, np.uint8)

    def observe(self, slab: Slab) -> None:
        """Draw from the planes of a slab."""
        classes, band = (np.moveaxis(array, slab.axis, 0) for array in (self._classes, self._band))
        for first, values, _ in split_planes(slab):
            for offset, logits in enumerate(values.cpu().numpy().swapaxes(0, 1)):
                plane = first + offset
                keys = np.random.default_rng([plane, slab.axis]).random(classes[plane].shape)
                chosen = (logits > 0).any(0) if self._regions else logits.argmax(0) > 0
                near = band[plane] | chosen
                for is_near, most in ((True, NEAR), (False, FAR)):
                    self._keep(is_near, most, near == is_near, (keys, logits, classes[plane]))

    def _keep(
        self,
        is_near: bool,
        most: int,
        where: NDArray[np.bool_],
        plane: tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.uint8]],
    ) -> None:
        """Keep the `most` voxels with the lowest random numbers."""
        keys, logits, classes = plane
        limit = np.clip(logits[:, where].T, -6e4, 6e4).astype(np.float16)
        old = self._kept[is_near]
        new = (keys[where], limit, classes[where])
        every_key = np.concatenate([old[0], new[0]])
        order = np.argsort(every_key, kind="stable")[:most]
        self._kept[is_near] = (
            every_key[order],
            np.concatenate([old[1], new[1]])[order],
            np.concatenate([old[2], new[2]])[order],
        )

    def sample(self) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Return (N, F) logits and which outputs are right."""
        near, far = self._kept[True], self._kept[False]
        classes = np.concatenate([near[2], far[2]])
        outputs = self._regions or tuple((value,) for value in range(self._n))
        truth = np.stack([np.isin(classes, covers) for covers in outputs], axis=1)
        return np.concatenate([near[1], far[1]]), truth


def widen(mask_IJK: NDArray[np.bool_], reach: Sequence[int]) -> NDArray[np.bool_]:
    """Return the mask grown by a box: `reach` voxels along each axis, both ways."""
    from scipy.ndimage import maximum_filter1d

    grown = mask_IJK.astype(np.uint8)
    for axis, steps in enumerate(reach):
        grown = maximum_filter1d(grown, 2 * steps + 1, axis=axis, mode="constant")
    return grown.astype(bool)
