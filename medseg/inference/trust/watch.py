"""All that watches one case while its logits pass by."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.loading import output_names
from medseg.data.preprocess import Placement
from medseg.data.settings import Data
from medseg.inference.trained import TrainedModel
from medseg.inference.trust.image import describe_image
from medseg.inference.trust.maps import Maps
from medseg.inference.trust.observer import Observer, Slab
from medseg.inference.trust.verdict import judge_case


def name_structures(data: Data) -> dict[str, str]:
    """Return key -> name of the structures: label values, or regions by their names."""
    if data.regions:
        return {name: name for name in output_names(data)}
    return {str(value): data.labels[value] for value in sorted(data.labels)}


def count_members(model: TrainedModel) -> int:
    """Return networks times mirrorings: what disagreement is measured between."""
    axes = model.plan.mirror_axes if model.infer.mirror else ()
    return int(len(model.networks) * 2 ** len(axes))


class Watch:
    """Observes the slabs of one case, and then says what it saw."""

    def __init__(
        self,
        model: TrainedModel,
        image_CIJK: NDArray[np.float16],
        placement: Placement,
        *,
        with_maps: bool = False,
    ) -> None:
        """Start to watch.

        Args:
            model: That makes the logits.
            image_CIJK: The preprocessed image.
            placement: Of it.
            with_maps: Whether `maps` are wanted.
        """
        self.model, self.placement, self._image = model, placement, image_CIJK
        data, shape = model.data, placement.grid.shape
        is_regions = bool(data.regions)
        self.observer = Observer(data.n_outputs, shape, is_regions=is_regions)
        temperatures = model.trust.temperatures if model.trust else (1.0,)
        self.maps = Maps(shape, temperatures, is_regions=is_regions) if with_maps else None

    def observe(self, slab: Slab) -> None:
        """See a finished slab."""
        self.observer.observe(slab)
        if self.maps is not None:
            self.maps.observe(slab)

    @cached_property
    def image_features(self) -> NDArray[np.float64]:
        """Of `image.describe_image`."""
        return describe_image(self._image, self.placement)

    def judge(self, modality: str = "") -> dict[str, Any] | None:
        """Return what the sidecar holds under "trust"; None where the model is not calibrated.

        Args:
            modality: Of the scan, where its header tells it.
        """
        if self.model.trust is None:
            return None
        return judge_case(
            self.model.trust,
            list(name_structures(self.model.data)),
            self.observer.summarize(),
            self.image_features,
            voxel_mm3=self.placement.grid.voxel_volume_mm3,
            has_disagreement=self.observer.has_disagreement,
            is_picture=self.placement.original.is_picture,
            modality=modality,
        )
