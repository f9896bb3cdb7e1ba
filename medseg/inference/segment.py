"""One preprocessed scan to a mask, with a loaded model."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.core.select import select
from medseg.core.volume import Labels
from medseg.data.loading import region_paints, to_stored
from medseg.data.preprocess import Placement
from medseg.inference.backends.choose import choose_backend
from medseg.inference.model import TrainedModel
from medseg.inference.predict import predict_logits
from medseg.inference.restore import (
    restore_classes,
    restore_probabilities,
    restore_region_probabilities,
    restore_regions,
)
from medseg.inference.settings import Infer
from medseg.postprocess import POSTPROCESS, apply


class Segmenter:
    """A model ready for many cases; what can be decided once is decided once.

    Args:
        model: Its networks' device is where they run.
        settings: How it is applied.
        backend: "auto" or a name of `BACKENDS`; see `choose_backend`.
        n_windows: That each network will see, where known: then "auto" weighs the time of conversions.
    """

    def __init__(
        self, model: TrainedModel, settings: Infer, *, backend: str = "torch", n_windows: int | None = None
    ) -> None:
        self.model = model
        self.settings = settings
        self.device = next(model.networks[0].parameters()).device
        plan = model.plan
        self.decision, self.members = choose_backend(
            backend,
            model.networks,
            len(model.data.channels),
            plan.patch,
            plan.dims,
            threads=torch.get_num_threads(),  # of the process, as `infer --threads` set it
            n_windows=n_windows,
        )
        # Steps name labels by their stored values, and run on stored values.
        self._steps = [
            select("post-processing step", POSTPROCESS, step.name, step.options)
            for step in settings.postprocess
        ]

    def predict(self, image_CIJK: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return (outputs, I, J, K) logits on the preprocessed grid."""
        plan = self.model.plan
        image = torch.from_numpy(image_CIJK.astype(np.float32)).to(self.device)
        # Members take windows of all five axes: those of 2D networks are flattened inside.
        run = partial(predict_logits, self.members, image, plan.patch, dims=3)
        logits = run(
            overlap=self.settings.overlap,
            mirror_axes=plan.mirror_axes if self.settings.mirror else (),
            window_batch=self.decision.chosen.window_batch,
        )
        result: NDArray[np.float32] = logits.cpu().numpy()
        return result

    def segment(
        self, image_CIJK: NDArray[np.float16], placement: Placement, *, with_probabilities: bool = False
    ) -> tuple[Labels, NDArray[Any] | None]:
        """Return stored label values on the scan's grid, and (C, I, J, K) probabilities if asked for.

        Probabilities are those of background and labels, or of the regions where these overlap.
        """
        logits, data = self.predict(image_CIJK), self.model.data
        restore = restore_region_probabilities if data.regions else restore_probabilities
        if data.regions:
            classes = restore_regions(logits, placement, region_paints(data))
        else:
            classes = restore_classes(logits, placement)
        stored = np.asarray(apply(self._steps, to_stored(classes, data), placement.original))
        return Labels(stored, placement.original), restore(logits, placement) if with_probabilities else None
