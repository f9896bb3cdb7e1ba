"""Training batches, each a function of (seed, epoch, sample) alone.

No random stream is carried along, so the number of worker processes changes nothing, and a resumed
run sees exactly the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medseg.core.errors import ConfigError
from medseg.data.augment import apply_spatial, augment_intensity, draw_spatial
from medseg.data.plan import Plan
from medseg.data.settings import Augment
from medseg.data.store import StoredCase

Sample = tuple[Tensor, Tensor]


class Patches(Dataset[Sample]):
    """Patches drawn from stored cases; the index is a (epoch, sample) pair.

    Args:
        cases: Training cases in a fixed order.
        plan: Patch, spacing, mirror and rotation axes.
        settings: Augmentation.
        seed: Of the whole run.
        foreground_every: (n, of): the last n of every `of` samples are centred on foreground.
        extra: MONAI dictionary transforms, built with `keys` over "image" and "label".
    """

    def __init__(
        self,
        cases: Sequence[StoredCase],
        plan: Plan,
        settings: Augment,
        *,
        seed: int,
        foreground_every: tuple[int, int],
        extra: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self.cases = list(cases)
        self.plan = plan
        self.settings = settings
        self.seed = seed
        self.foreground_every = foreground_every
        self.extra = [build() for build in extra]

    def __getitem__(self, index: tuple[int, int]) -> Sample:
        epoch, sample = index
        rng = np.random.default_rng([self.seed, epoch, sample])
        case = self.cases[int(rng.integers(len(self.cases)))]
        wanted, of = self.foreground_every
        centre = draw_centre(rng, case, self.plan, on_foreground=sample % of >= of - wanted)
        draw = draw_spatial(rng, centre, self.plan, self.settings)
        image, label = apply_spatial(case.image, case.label, draw, self.plan.patch)
        image = augment_intensity(rng, image, self.settings)
        image, label = self._apply_extra(rng, image, label)
        return torch.from_numpy(image), torch.from_numpy(label).long()

    def _apply_extra(
        self, rng: np.random.Generator, image: NDArray[np.float32], label: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Raises ConfigError where a transform changes the shape or invents a label."""
        if not self.extra:
            return image, label
        pair: dict[str, Any] = {"image": torch.from_numpy(image), "label": torch.from_numpy(label)[None]}
        for transform in self.extra:
            if hasattr(transform, "set_random_state"):
                transform.set_random_state(seed=int(rng.integers(2**31)))
            pair = transform(pair)
        image_out, label_out = (np.asarray(torch.as_tensor(pair[key])) for key in ("image", "label"))
        if image_out.shape != image.shape or label_out.shape != (1, *label.shape):
            raise ConfigError(
                f"augment.extra turns a patch of shape {image.shape} into {image_out.shape}",
                hint="name transforms that keep the shape",
                code="TRANSFORM_SHAPE",
            )
        if not np.isin(label_out, [0, *np.unique(label)]).all():
            raise ConfigError(
                "augment.extra interpolates the label: values appear that were not there",
                hint="give the transform `mode: nearest` for the label, or `keys: [image]`",
                code="TRANSFORM_LABELS",
            )
        return np.ascontiguousarray(image_out, np.float32), np.ascontiguousarray(label_out[0], np.uint8)


def draw_centre(
    rng: np.random.Generator, case: StoredCase, plan: Plan, *, on_foreground: bool
) -> NDArray[np.int64]:
    """Draw the voxel at a patch's middle.

    On foreground: a voxel of a random present class. Otherwise uniform over the positions at which
    the patch lies inside the case, or over labelled voxels where some are ignored; an axis shorter than
    the patch is centred. In 2D on a volume the last axis picks the slice.
    """
    shape, patch = np.array(case.shape), np.array(plan.patch)
    half = patch // 2
    last = shape - patch + half
    if on_foreground and case.points:
        labels = sorted(case.points)
        points = case.points[labels[int(rng.integers(len(labels)))]]
        centre = points[int(rng.integers(len(points)))].astype(np.int64)
    elif case.labelled is not None:
        centre = case.labelled[int(rng.integers(len(case.labelled)))].astype(np.int64)
    else:
        centre = rng.integers(half, np.maximum(last, half) + 1)
    # Keep the patch inside; where the case is shorter than the patch, centre it.
    return np.where(last <= half, shape // 2, np.clip(centre, half, last))


def open_loader(
    patches: Patches, *, batch_size: int, workers: int, share: tuple[int, int] = (0, 1), pin: bool = False
) -> Callable[[int, int], DataLoader[Sample]]:
    """Return `batches(epoch, iterations)`; worker processes, if any, live on between epochs.

    Args:
        patches: The source.
        batch_size: Samples a batch, over all ranks.
        workers: Processes that make patches; 0 makes them in this one.
        share: (rank, world): this rank makes every world-th sample of a batch.
        pin: Whether to put batches into page-locked memory, for a GPU.

    Raises:
        ConfigError: A batch has fewer samples than there are ranks.
    """
    if batch_size < share[1]:
        raise ConfigError(
            f"a batch of {batch_size} cannot be shared by {share[1]} processes",
            hint="set grid.batch_size to a multiple of the number of processes",
            code="BATCH_TOO_SMALL",
        )
    sampler = _Indices(batch_size, share)
    loader = DataLoader(
        patches,
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin,
        worker_init_fn=_use_one_thread,
    )

    def batches(epoch: int, iterations: int) -> DataLoader[Sample]:
        sampler.epoch, sampler.iterations = epoch, iterations
        return loader

    return batches


class _Indices:
    """(epoch, sample) pairs, a list a batch."""

    def __init__(self, batch_size: int, share: tuple[int, int]) -> None:
        self.batch_size, self.share = batch_size, share
        self.epoch = self.iterations = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world = self.share
        for iteration in range(self.iterations):
            first = iteration * self.batch_size
            yield [(self.epoch, first + slot) for slot in range(rank, self.batch_size, world)]

    def __len__(self) -> int:
        return self.iterations


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)
