"""One preprocessed scan to a mask, with a loaded model: windows, slabs and export in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.core.errors import DataError
from medseg.core.select import select
from medseg.core.volume import Labels
from medseg.data.loading import region_paints, to_stored
from medseg.data.preprocess import Placement
from medseg.inference.backends.choose import choose_backend
from medseg.inference.export import Exporter, Mask, Probabilities, Release
from medseg.inference.head import Head, split_head
from medseg.inference.network import count_values, small_window
from medseg.inference.nnunet.preparation import follow
from medseg.inference.predict import Ensemble, Slab, collect, stream_logits
from medseg.inference.refine import REFINE, apply_refine
from medseg.inference.rolling import Rolling
from medseg.inference.settings import Infer
from medseg.inference.trained import TrainedModel
from medseg.inference.way import Way
from medseg.inference.windows import Box, WindowPlan, gaussian_weights, plan_windows
from medseg.postprocess import POSTPROCESS, apply

Observer = Callable[[Slab], None]
CERTAIN = 10.0  # logit of what is known without a look: outside the box there is background


class Segmenter:
    """A model ready for many cases; what can be decided once is decided once.

    Args:
        model: Its networks are on their device.
        settings: How to apply it.
        tells_disagreement: Whether slabs carry the disagreement of folds and mirrored views.
        backend: "auto" or a name of `BACKENDS`; see `choose_backend`.
        n_windows: That each network will see, where known: then "auto" weighs the time of conversions.
    """

    def __init__(
        self,
        model: TrainedModel,
        settings: Infer,
        *,
        tells_disagreement: bool = False,
        backend: str = "torch",
        n_windows: int | None = None,
    ) -> None:
        self.model = model if model.previous is None else follow(model, model.previous, backend)
        self.settings = settings
        self.device = next(model.networks[0].parameters()).device
        networks, head = self._split_head()
        self.decision, members = choose_backend(
            backend,
            networks,
            model.n_inputs,
            model.plan.patch,
            model.plan.dims,
            threads=torch.get_num_threads(),  # of the process, as `infer --threads` set it
            n_windows=n_windows,
            small=small_window(model.plan),
        )
        self.way = Way(self.decision.chosen.window_batch)
        mirror_axes = model.plan.mirror_axes if settings.mirror else ()
        activation = _choose_activation(model) if tells_disagreement else None
        self.ensemble = Ensemble(members, mirror_axes, head, activation, self.device)
        # Steps name labels by their stored values, and run on stored values.
        self._steps = [
            select("post-processing step", POSTPROCESS, step.name, step.options)
            for step in settings.postprocess
        ]
        self._refine = [
            select("refinement step", REFINE, step.name, step.options) for step in settings.refine
        ]

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Of saved probabilities: fitted to what networks say, not to what refinement makes of that."""
        trust = self.model.trust
        return (1.0,) if trust is None or self._refine else trust.temperatures

    @property
    def n_values(self) -> int:
        """How many channels are blended: classes or regions, or features of a late head, and disagreement."""
        head = self.ensemble.head
        count = self.model.data.n_outputs if head is None else head.weight.shape[1]
        return count + (self.ensemble.activation is not None)

    @cached_property
    def window_mb_at_most(self) -> float:
        """MB that a window takes in the network, generously, told by a small one; on a GPU none of ours."""
        if self.device.type != "cpu":
            return 0.0
        plan, ensemble = self.model.plan, self.ensemble
        small, voxels = small_window(plan), prod(plan.patch)
        window = torch.zeros((1, self.model.n_inputs, *small[: plan.dims]))
        inside = count_values(self.model.networks[0], window) * voxels / prod(small)
        outputs = 2 + (ensemble.n_views if ensemble.activation else 0)
        return 4 * (2 * inside + outputs * self.n_values * voxels) / (1 << 20)

    def plan(self, shape: Sequence[int], box: Box | None = None) -> WindowPlan:
        """Return the windows of a preprocessed (I, J, K) image, or of a box in it."""
        return plan_windows(shape, self.model.plan.patch, self.settings.overlap, box=box)

    def stream(
        self,
        image_CIJK: NDArray[np.float16],
        *,
        box: Box | None = None,
        way: Way | None = None,
        folder: Path | None = None,
    ) -> Iterator[Slab]:
        """Yield slabs of logits on the preprocessed grid.

        Args:
            image_CIJK: Preprocessed.
            box: Where to look; outside lies background.
            way: How to keep within memory; None: the fastest.
            folder: Where a buffer may lie in a file.

        Raises:
            DataError: LOGITS_NOT_FINITE, with the slab: what is no number would be taken for background.
        """
        way = way or self.way
        plan = self.plan(image_CIJK.shape[1:], box)
        device = torch.device("cpu") if way.blends_on_cpu else self.device
        outputs, has_background = self.model.data.n_outputs, not self.model.data.regions
        slabs = stream_logits(
            self.ensemble,
            torch.from_numpy(np.ascontiguousarray(image_CIJK)),
            plan,
            window_batch=way.window_batch,
            blend=self.model.blend or gaussian_weights,
            outside=[CERTAIN if has_background and n == 0 else -CERTAIN for n in range(outputs)],
            rolling=Rolling(plan, device, folder if way.in_file else None),
        )
        return self._require_finite(slabs)

    def predict(self, image_CIJK: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return (outputs, I, J, K) logits on the preprocessed grid, as a whole."""
        i, j, k = image_CIJK.shape[1:]
        result: NDArray[np.float32] = collect(self.stream(image_CIJK), (i, j, k)).cpu().numpy()
        return result

    def segment(
        self,
        image_CIJK: NDArray[np.float16],
        placement: Placement,
        *,
        with_probabilities: bool = False,
        sink: tuple[NDArray[Any], Release] | None = None,
        observers: Sequence[Observer] = (),
        slabs: Iterator[Slab] | None = None,
        is_cleaned: bool = True,
        warnings: list[tuple[str, str]] | None = None,
    ) -> tuple[Labels, NDArray[np.float32] | None]:
        """Return stored label values on the scan's grid, and (C, I, J, K) probabilities if asked for.

        Probabilities are those of background and labels, or of the regions where these overlap, calibrated
        where the model is; the mask is the same.

        Args:
            image_CIJK: Preprocessed.
            placement: The way back.
            with_probabilities: Whether to return probabilities, which takes memory for all of them.
            sink: Where else to write them: (C, I, J, K) zeros on the scan's grid, see `Probabilities`, and
                what to call with each part of it that was written.
            observers: Called with each slab of logits on the preprocessed grid.
            slabs: What `stream` returned for this image; None: all of it, in the fastest way.
            is_cleaned: Whether the mask is post-processed; else `clean` does it later.
            warnings: Gets (code, message) where refinement would take too long, and is left out.

        Raises:
            DataError: CRF_TOO_LARGE, where there are no `warnings`.
        """
        data = self.model.data
        slabs = self._watch(slabs or self.stream(image_CIJK), observers)
        if self._refine:
            slabs = self._refine_slabs(slabs, image_CIJK, placement, warnings)
        axis = self.plan(image_CIJK.shape[1:]).axis
        mask = Mask(placement, axis, data.n_outputs, region_paints(data))
        make = partial(
            Probabilities,
            placement=placement,
            axis=axis,
            are_regions=bool(data.regions),
            temperatures=self.temperatures,
        )
        targets: list[Any] = [mask]
        probabilities = None
        if with_probabilities:
            probabilities = np.zeros((data.n_outputs, *placement.original.shape), np.float32)
            targets.append(make(probabilities))
        if sink is not None:
            targets.append(make(sink[0], release=sink[1]))
        exporter = Exporter(placement, axis, targets)
        for slab in slabs:
            exporter.add(slab)
        exporter.finish()
        labels = Labels(to_stored(mask.array, data), placement.original)
        return (self.clean(labels) if is_cleaned else labels), probabilities

    def clean(self, labels: Labels) -> Labels:
        """Return a mask after the post-processing steps."""
        return Labels(np.asarray(apply(self._steps, labels.array, labels.geometry)), labels.geometry)

    def _require_finite(self, slabs: Iterator[Slab]) -> Iterator[Slab]:
        for slab in slabs:
            if not slab.is_finite():
                hint = "the weights are damaged, or the intensities lie far outside those of training"
                if self.device.type != "cpu":
                    hint = f"float16 may be too small here, --device cpu computes in float32; or {hint}"
                raise DataError(
                    "the network gave logits that are no numbers", hint=hint, code="LOGITS_NOT_FINITE"
                )
            yield slab

    def _watch(self, slabs: Iterator[Slab], observers: Sequence[Observer]) -> Iterator[Slab]:
        for slab in slabs:
            for observe in observers:
                observe(slab)
            yield slab

    def _refine_slabs(
        self,
        slabs: Iterator[Slab],
        image_CIJK: NDArray[np.float16],
        placement: Placement,
        warnings: list[tuple[str, str]] | None,
    ) -> Iterator[Slab]:
        """Yield one slab of logits whose probabilities are the refined ones of the whole image."""
        i, j, k = image_CIJK.shape[1:]
        logits = collect(slabs, (i, j, k)).cpu()
        try:
            values = self._refine_logits(logits, image_CIJK, placement)
        except DataError as error:
            if warnings is None or error.code != "CRF_TOO_LARGE":
                raise
            warnings.append((error.code, f"{error.message}: the mask is not refined"))
            values = logits
        axis = self.plan((i, j, k)).axis
        values = values.movedim(axis + 1, 1).contiguous()
        yield Slab(axis, 0, values.shape[1], values)

    def _refine_logits(
        self, logits_CIJK: Tensor, image_CIJK: NDArray[np.float16], placement: Placement
    ) -> Tensor:
        are_regions, image = bool(self.model.data.regions), torch.from_numpy(image_CIJK)
        chances = logits_CIJK.sigmoid() if are_regions else logits_CIJK.softmax(0)
        refined = apply_refine(self._refine, chances, image, placement.grid, overlapping=are_regions)
        refined = refined.clamp(1e-7, 1 - 1e-7)
        return refined.logit() if are_regions else refined.log()

    def _split_head(self) -> tuple[Sequence[nn.Module], Head | None]:
        """Return a single network without its last linear layer, and that layer, where this saves memory."""
        model = self.model
        n_outputs = model.data.n_outputs
        if len(model.networks) == 1 and _may_shrink(model.networks[0], n_outputs):
            noise = torch.Generator().manual_seed(0)
            size = (1, model.n_inputs, *small_window(model.plan)[: model.plan.dims])
            parts = split_head(model.networks[0], torch.randn(size, generator=noise).to(self.device))
            if parts is not None and parts[1].weight.shape[1] < n_outputs:
                return (parts[0],), parts[1]
        return model.networks, None


def _choose_activation(model: TrainedModel) -> Callable[[Tensor], Tensor]:
    return _share_regions if model.data.regions else partial(torch.softmax, dim=1)


def _may_shrink(network: nn.Module, n_outputs: int) -> bool:
    """Say without a look at any window whether a late head could save memory."""
    return any(
        isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.out_channels == n_outputs > module.in_channels
        for module in network.modules()
    )


def _share_regions(logits_B: Tensor) -> Tensor:
    """Return (B, 2R, ...) probabilities for and against each region, which sum to 1: distances are means."""
    chances = logits_B.sigmoid()
    return torch.cat([chances, 1 - chances], dim=1) / chances.shape[1]
