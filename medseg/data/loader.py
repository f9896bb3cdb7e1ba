"""Training batches, each a function of (seed, epoch, sample) and the weights of the cases alone.

No random stream is carried along, so the number of worker processes changes nothing, and a resumed
run sees exactly the batches that an uninterrupted one would have seen.

A worker reads the box that a sample's draw touches. What the draw says is done there, too, or for a GPU
on the device: one box after the other, since boxes differ in size and a GPU is busy with one at a time.

Shape legend: B samples, C channels, (I, J, K) patch voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medseg.core.errors import ConfigError
from medseg.data.augment import (
    IntensityDraw,
    SpatialDraw,
    apply_intensity,
    apply_spatial,
    draw_intensity,
    draw_spatial,
    read_box,
)
from medseg.data.augment.extra import apply_extra
from medseg.data.plan import Plan
from medseg.data.sampling import draw_case, draw_centre
from medseg.data.settings import Augment
from medseg.data.store import StoredCase
from medseg.data.worklog import Worklog

CPU = torch.device("cpu")
Index = tuple[int, int, int]  # epoch, sample of the epoch over all ranks, case
Weigh = Callable[[int], ArrayLike]


class Batch(NamedTuple):
    """What a training step is given.

    Args:
        image: (B, C, I, J, K) float32.
        label: (B, I, J, K) int64.
        cases: Id of the case behind each sample.
    """

    image: Tensor
    label: Tensor
    cases: tuple[str, ...]


class Cut(NamedTuple):
    """A sample before its changes: what was read, and what is to be done.

    Args:
        case: Its id.
        image: (C, *box), as stored.
        label: (*box), uint8.
        spatial, intensity: The draws.
        extra_seed: For transforms from outside.
    """

    case: str
    image: Tensor
    label: Tensor
    spatial: SpatialDraw
    intensity: IntensityDraw
    extra_seed: int


class Patches(Dataset[Cut]):
    """Patches drawn from stored cases.

    Args:
        cases: Training cases in a fixed order.
        plan: Patch, spacing, mirror and rotation axes.
        settings: Augmentation.
        seed: Of the whole run.
        foreground_every: (n, of): the last n of every `of` samples are centred on foreground.
        extra: MONAI dictionary transforms, built with `keys` over "image" and "label".
        weights: Epoch -> how often to draw each case, (cases,); None draws all alike. Asked once at the
            start of an epoch, in the main process; all ranks must get the same.
        swap: Pairs of classes to swap where a patch is mirrored left to right.
        worklog: Told by each worker which case it begins.
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
        weights: Weigh | None = None,
        swap: tuple[tuple[int, int], ...] = (),
        worklog: Worklog | None = None,
    ) -> None:
        self.cases = list(cases)
        self.plan = plan
        self.settings = settings
        self.seed = seed
        self.foreground_every = foreground_every
        self.extra = [build() for build in extra]
        self.weights = weights
        self.swap = swap
        self.worklog = worklog

    def __getstate__(self) -> dict[str, Any]:
        """Leave the weights behind: they are the main process's, which alone knows how training goes."""
        return {**self.__dict__, "weights": None}

    def choose(self, epoch: int, sample: int, weights: ArrayLike) -> Index:
        """Return the index of a sample: which case it is cut from."""
        rng = np.random.default_rng([self.seed, epoch, sample, 0])
        return epoch, sample, draw_case(rng, weights)

    def __getitem__(self, index: Index) -> Cut:
        epoch, sample, number = index
        if self.worklog:
            self.worklog.note(number)
        rng = np.random.default_rng([self.seed, epoch, sample, 1])
        case = self.cases[number]
        wanted, of = self.foreground_every
        centre = draw_centre(rng, case, self.plan, on_foreground=sample % of >= of - wanted)
        spatial = draw_spatial(rng, centre, self.plan, self.settings, swap=self.swap)
        intensity = draw_intensity(rng, self.settings)
        box = read_box(case.image, case.label, spatial, self.plan.patch)
        return Cut(case.id, *box, spatial, intensity, extra_seed=int(rng.integers(2**31)))

    def finish(self, cuts: Sequence[Cut], device: torch.device = CPU) -> Batch:
        """Do what the draws say, on a device; transforms from outside run on the CPU only."""
        with _one_thread():
            samples = [self._finish_one(cut, device) for cut in cuts]
        images, labels = zip(*samples)
        return Batch(torch.stack(images), torch.stack(labels).long(), tuple(cut.case for cut in cuts))

    def _finish_one(self, cut: Cut, device: torch.device) -> tuple[Tensor, Tensor]:
        pixels, classes = (box.to(device, non_blocking=True) for box in (cut.image, cut.label))
        image, label = apply_spatial(pixels, classes, cut.spatial, self.plan.patch)
        image = apply_intensity(image, cut.intensity)
        if self.extra:
            return apply_extra(self.extra, image, label, cut.extra_seed)
        return image, label


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sum in one order: with more threads a mean would depend on how many there are, here or in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_loader(
    patches: Patches,
    *,
    batch_size: int,
    workers: int,
    share: tuple[int, int] = (0, 1),
    device: torch.device = CPU,
    on_device: bool | None = None,
) -> Callable[[int, int], Iterator[Batch]]:
    """Return `batches(epoch, iterations)`; worker processes, if any, live on between epochs.

    Args:
        patches: The source.
        batch_size: Samples a batch, over all ranks.
        workers: Processes that make patches; 0 makes them in this one.
        share: (rank, world): this rank makes every world-th sample of a batch.
        device: Where training runs; for a GPU, workers read ahead into page-locked memory.
        on_device: Whether patches are resampled and changed there and not by the workers; None: on a GPU,
            unless there are transforms from outside.

    Raises:
        ConfigError: A batch has fewer samples than there are ranks.
    """
    if batch_size < share[1]:
        raise ConfigError(
            f"a batch of {batch_size} cannot be shared by {share[1]} processes",
            hint="set grid.batch_size to a multiple of the number of processes",
            code="BATCH_TOO_SMALL",
        )
    is_gpu = device.type == "cuda"
    if on_device is None:
        on_device = is_gpu and not patches.extra
    sampler = _Indices(patches, batch_size, share)
    loader: DataLoader[Any] = DataLoader(
        patches,
        batch_sampler=sampler,
        collate_fn=list if on_device else patches.finish,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=is_gpu,
        worker_init_fn=_use_one_thread,
    )
    end = partial(patches.finish, device=device) if on_device else _keep

    def batches(epoch: int, iterations: int) -> Iterator[Batch]:
        sampler.epoch, sampler.iterations = epoch, iterations
        return map(end, loader)

    return batches


def _keep(batch: Batch) -> Batch:
    image, label, cases = batch
    return Batch(image, label, tuple(cases))  # pinning makes a list of it


class _Indices:
    """Indices of an epoch's samples, a list a batch; drawn in the main process."""

    def __init__(self, patches: Patches, batch_size: int, share: tuple[int, int]) -> None:
        self.patches, self.batch_size, self.share = patches, batch_size, share
        self.epoch = self.iterations = 0

    def __iter__(self) -> Iterator[list[Index]]:
        rank, world = self.share
        weigh = self.patches.weights
        weights = weigh(self.epoch) if weigh else np.ones(len(self.patches.cases))
        for iteration in range(self.iterations):
            first = iteration * self.batch_size
            samples = range(first + rank, first + self.batch_size, world)
            yield [self.patches.choose(self.epoch, sample, weights) for sample in samples]


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)
