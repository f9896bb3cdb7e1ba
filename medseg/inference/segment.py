"""One preprocessed scan to a mask, with a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.core.select import select
from medseg.core.volume import Labels
from medseg.data.loading import region_paints, to_stored
from medseg.data.preprocess import Placement
from medseg.inference.model import TrainedModel
from medseg.inference.predict import choose_window_batch, predict_logits
from medseg.inference.restore import (
    restore_classes,
    restore_probabilities,
    restore_region_probabilities,
    restore_regions,
)
from medseg.inference.settings import Infer
from medseg.inference.trust.observer import Slab, Whole
from medseg.postprocess import POSTPROCESS, apply


class Segmenter:
    """A model ready for many cases; what can be decided once is decided once."""

    def __init__(self, model: TrainedModel, settings: Infer, *, tells_disagreement: bool = False) -> None:
        self.model = model
        self.settings = settings
        self._tells_disagreement = tells_disagreement
        self.device = next(model.networks[0].parameters()).device
        plan = model.plan
        channels = len(model.data.channels)
        self._window_batch = choose_window_batch(model.networks[0], channels, plan.patch, plan.dims)
        # Steps name labels by their stored values, and run on stored values.
        self._steps = [
            select("post-processing step", POSTPROCESS, step.name, step.options)
            for step in settings.postprocess
        ]

    def predict(self, image_CIJK: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return (outputs, I, J, K) logits on the preprocessed grid, and disagreement behind them if told."""
        plan = self.model.plan
        image = torch.from_numpy(image_CIJK.astype(np.float32)).to(self.device)
        run = partial(predict_logits, self.model.networks, image, plan.patch, dims=plan.dims)
        logits = run(
            overlap=self.settings.overlap,
            mirror_axes=plan.mirror_axes if self.settings.mirror else (),
            window_batch=self._window_batch,
            disagreement=("sigmoid" if self.model.data.regions else "softmax")
            if self._tells_disagreement
            else None,
        )
        result: NDArray[np.float32] = logits.cpu().numpy()
        return result

    def segment(
        self,
        image_CIJK: NDArray[np.float16],
        placement: Placement,
        *,
        with_probabilities: bool = False,
        observers: Sequence[Callable[[Slab], None]] = (),
    ) -> tuple[Labels, NDArray[Any] | None]:
        """Return stored label values on the scan's grid, and (C, I, J, K) probabilities if asked for.

        Probabilities are those of background and labels, or of the regions where these overlap. `observers`
        get the logits, on the preprocessed grid.
        """
        data = self.model.data
        logits = self.predict(image_CIJK)
        told, logits = torch.from_numpy(logits), logits[: data.n_outputs]
        for observe in observers:
            observe(Whole(told[: data.n_outputs], told[-1] if self._tells_disagreement else None))
        restore = restore_region_probabilities if data.regions else restore_probabilities
        if data.regions:
            classes = restore_regions(logits, placement, region_paints(data))
        else:
            classes = restore_classes(logits, placement)
        stored = np.asarray(apply(self._steps, to_stored(classes, data), placement.original))
        return Labels(stored, placement.original), restore(logits, placement) if with_probabilities else None
