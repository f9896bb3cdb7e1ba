"""One held-out case, drawn each time the network is validated: how its masks become what they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medseg.config import Config
from medseg.core.geometry import Geometry
from medseg.core.volume import IGNORED, Volume
from medseg.data.loading import class_values, region_paints
from medseg.data.store import StoredCase
from medseg.tracking.overlay import draw_overlay


class Look:
    """Keeps the newest prediction of a case, on its preprocessed grid, until it is drawn."""

    def __init__(self, config: Config) -> None:
        self._paints = region_paints(config.data)
        values = class_values(config.data)
        self._names = {values.index(value): name for value, name in config.data.labels.items()}
        self._seen: tuple[StoredCase, NDArray[np.uint8]] | None = None

    def note(self, case: StoredCase, logits_FIJK: Tensor) -> None:
        """Take what the network gives for a case: logits of classes, or of regions."""
        if not self._paints:
            classes = logits_FIJK.argmax(0).cpu().numpy().astype(np.uint8)
        else:
            masks = (logits_FIJK > 0).cpu().numpy()
            classes = np.zeros(masks.shape[1:], np.uint8)
            for mask, paint in zip(masks, self._paints, strict=True):
                classes[mask] = paint
        self._seen = case, classes

    def expect(self, case: StoredCase) -> None:
        """Take a case before the first epoch: nothing is predicted, and MLflow's slider begins at step 0."""
        self._seen = case, np.zeros(case.label.shape, np.uint8)

    def draw(self, spacing_mm: tuple[float, float, float]) -> bytes | None:
        """Return a PNG of what was noted since the last time, None for nothing new."""
        if self._seen is None:
            return None
        (case, classes), self._seen = self._seen, None
        image = np.asarray(case.image[:]).astype(np.float32)
        volume = Volume(image, Geometry(classes.shape, np.diag([*spacing_mm, 1.0])))
        reference = np.asarray(case.label[:])
        return draw_overlay(case.id, volume, reference, classes, self._names, ignore_label=IGNORED)
