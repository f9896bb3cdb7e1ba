"""Which windows of an image a network looks at, decided before it looks.

Windows are ordered along one axis, the slab axis: once the next window starts further on, the planes before
it are finished, so that only as many planes are ever held as a window is deep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import ceil, prod

import numpy as np
import torch
from torch import Tensor

Triple = tuple[int, int, int]
Box = tuple[slice, slice, slice]
SAMPLE = 1 << 20  # voxels that tell an image's contrast


@dataclass(frozen=True)
class WindowPlan:
    """The windows of one image.

    Args:
        shape: (3,) voxels of the image.
        patch: (3,) voxels of a window.
        axis: The slab axis.
        starts: First voxel of the windows along each axis; below 0 where the image is shorter than a window.
        skipped: Windows that the whole image would have and the box has not.
    """

    shape: Triple
    patch: Triple
    axis: int
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    skipped: int = 0

    def __len__(self) -> int:
        return prod(len(row) for row in self.starts)

    @cached_property
    def windows(self) -> tuple[Triple, ...]:
        """First voxel of each window, in the order they are looked at: along the slab axis."""
        found = [(i, j, k) for i, j, k in product(*self.starts)]
        return tuple(sorted(found, key=lambda start: start[self.axis]))

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Voxels that a window sees before and after the image, per axis."""
        ends = zip(self.starts, self.patch, self.shape, strict=True)
        return tuple((max(0, -row[0]), max(0, row[-1] + edge - size)) for row, edge, size in ends)

    @property
    def is_partial(self) -> bool:
        """Whether there are voxels that no window sees."""
        ends = zip(self.starts, self.patch, self.shape, strict=True)
        return any(row[0] > 0 or row[-1] + edge < size for row, edge, size in ends)

    @property
    def depth(self) -> int:
        """Planes that are held at once."""
        return min(self.patch[self.axis], self.shape[self.axis])

    @property
    def plane(self) -> tuple[int, int]:
        """Voxels of a plane across the slab axis."""
        first, second = (size for axis, size in enumerate(self.shape) if axis != self.axis)
        return first, second

    def describe(self) -> str:
        """Return the plan in one line."""
        counts = "x".join(str(len(row)) for row in self.starts)
        text = f"{len(self)} windows ({counts}) of {_join(self.patch)} in {_join(self.shape)} voxels"
        text += f", slabs along axis {'ijk'[self.axis]}"
        if any(map(sum, self.padding)):
            text += f", padded by {', '.join(f'{a}+{b}' for a, b in self.padding)}"
        return text + (f", {self.skipped} skipped" if self.skipped else "")


def plan_windows(
    shape: Sequence[int], patch: Sequence[int], overlap: float, *, box: Box | None = None
) -> WindowPlan:
    """Cover an image, or a box in it, with equal windows that overlap by at least `overlap` of their edge.

    Windows are spread evenly, so the last one of a row is no smaller and no closer than the others. The slab
    axis is the one that needs the smallest buffer; of equals the first.

    Args:
        shape: (3,) voxels.
        patch: (3,) voxels; where the image is shorter, windows hang over evenly on both sides.
        overlap: Share of the edge, 0 <= overlap < 1.
        box: What to cover, not empty; windows stay inside the image where it is long enough.
    """
    spans = [(0, size) for size in shape]
    if box is not None:
        spans = [(max(0, part.start), min(size, part.stop)) for part, size in zip(box, shape, strict=True)]
    axes = list(zip(spans, shape, patch, strict=True))
    i, j, k = (_place_row(span, size, edge, overlap) for span, size, edge in axes)
    held = [min(edge, size) * prod(shape) // size for size, edge in zip(shape, patch)]
    sizes, edges = tuple(int(n) for n in shape), tuple(int(n) for n in patch)
    whole = prod(len(_place_row((0, size), size, edge, overlap)) for _, size, edge in axes)
    return WindowPlan(
        (sizes[0], sizes[1], sizes[2]),
        (edges[0], edges[1], edges[2]),
        held.index(min(held)),
        (i, j, k),
        whole - len(i) * len(j) * len(k),
    )


def _place_row(span: tuple[int, int], size: int, edge: int, overlap: float) -> tuple[int, ...]:
    """Return where windows start along one axis."""
    first, last = span
    if size <= edge:
        return (-((edge - size) // 2),)
    if last - first <= edge:
        centred = first - (edge - (last - first)) // 2
        return (min(max(0, centred), size - edge),)
    # The step may be a fraction, as nnU-Net's of odd edges; what is missing to a whole one is rounding.
    count = ceil((last - first - edge) / max(1.0, edge * (1 - overlap)) - 1e-9) + 1
    starts = first + np.linspace(0, last - first - edge, count).round().astype(int)
    return tuple(starts.tolist())


def find_content(image_CIJK: Tensor, *, share: float = 0.02) -> Box | None:
    """Return the box of voxels that are not air; None, for everywhere, in doubt or where there are none.

    What air is, and how much it varies, the darkest face of the image tells: of its six faces the one whose
    brightest voxel is least bright. Voxels off its range by more than twice that range are content, brighter
    or darker. So nothing is lost that stands out of the noise of air, however bright a few other voxels are.

    In doubt: the darkest face may hold tissue where it varies by more than half of `share` of the contrast to
    air that a tenth of all voxels exceed.

    Args:
        image_CIJK: Preprocessed; a voxel counts if any channel of it does.
        share: 0.02 is below the contrast of any tissue to air, and above the noise that clipping leaves.
    """
    used = torch.zeros(image_CIJK.shape[1:], dtype=torch.bool, device=image_CIJK.device)
    for channel in image_CIJK:
        low, high = _find_air(channel)
        reach = 2 * (high - low)
        if high > low and reach > share * _measure_contrast(channel, low):
            return None
        reach += 4 * torch.finfo(channel.dtype).eps * max(abs(low), abs(high))  # resampling rounds
        used |= (channel > high + reach) | (channel < low - reach)
    if not bool(used.any()):
        return None
    spans = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        places = used.amax(dim=others).nonzero()
        spans.append(slice(int(places[0]), int(places[-1]) + 1))
    return spans[0], spans[1], spans[2]


def _find_air(channel_IJK: Tensor) -> tuple[float, float]:
    """Return the range of the darkest face; an axis of one voxel has none."""
    faces = [channel_IJK.select(axis, at) for axis in range(3) for at in (0, -1)]
    ranges = [(float(face.max()), float(face.min())) for face in faces if face.numel() < channel_IJK.numel()]
    high, low = min(ranges, default=(float(channel_IJK.max()), float(channel_IJK.min())))
    return low, high


def _measure_contrast(channel_IJK: Tensor, air: float) -> float:
    """Return the difference from air that a tenth of the voxels exceed, of some million of them at most."""
    step = ceil((channel_IJK.numel() / SAMPLE) ** (1 / 3))
    sample = channel_IJK[::step, ::step, ::step].flatten().float()
    return float(torch.quantile((sample - air).abs(), 0.9))


@lru_cache(maxsize=4)
def gaussian_weights(patch: tuple[int, int, int]) -> Tensor:
    """Return (*patch) float32 weights, 1 in the middle.

    Sigma is an eighth of the edge (Isensee et al. 2021, suppl. note 2); the floor keeps corners that
    a single window covers from being divided by almost nothing.
    """
    weights = torch.ones(patch)
    for axis, edge in enumerate(patch):
        if edge > 1:
            offset = torch.arange(edge, dtype=torch.float32) - (edge - 1) / 2
            view = [edge if other == axis else 1 for other in range(3)]
            weights = weights * torch.exp(-0.5 * (offset / (edge / 8)) ** 2).view(view)
    return weights.clamp_min(1e-4)


def _join(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
