"""Slide members over an image, blend their windows, and give away each slab as soon as it is finished.

A member is what a backend makes of a network: (B, C, I, J, K) float32 windows -> (B, F, I, J, K). A 2D
network has a patch with K = 1 and sees (B, C, I, J).

Shape legend: B windows, C channels or classes, F classes or features, (I, J, K) voxels, (N, P, Q) the same
with the slab axis first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from math import ceil, prod
from pathlib import Path

import torch
from torch import Tensor, nn

from medseg.inference.head import Head
from medseg.inference.rolling import Rolling
from medseg.inference.views import Views
from medseg.inference.windows import Triple, WindowPlan, gaussian_weights, plan_windows

Member = Callable[[Tensor], Tensor]
Activation = Callable[[Tensor], Tensor]
Blend = Callable[[Triple], Tensor]  # window -> (*window) weights

# On a CPU torch takes a slow 3D convolution where N*C*D*H <= 20480 (measured with torch 2.13: 95 ms
# against 8.8 ms for one more row); two or four windows at once lift most layers over it.
SLOW_CONV3D = 20480
CUDA_WINDOWS = 8
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Slab:
    """Finished planes; its tensors are valid until the next slab is asked for.

    Args:
        axis: The slab axis.
        start, stop: Planes of the image along it.
        values: (F, N, P, Q) float32 logits, or features where there is a head.
        head: What makes logits of features.
        covered: (N, P, Q) whether a window looked; None: everywhere.
        outside: (C,) logits of voxels where none did.
        disagreement: (N, P, Q) half the L1 distance of a member's probabilities from the mean, averaged over
            members and windows; None where it was not asked for.
    """

    axis: int
    start: int
    stop: int
    values: Tensor
    head: Head | None = None
    covered: Tensor | None = None
    outside: Tensor | None = None
    disagreement: Tensor | None = None

    def plane(self, index: int) -> Tensor:
        """Return (C, P, Q) logits of plane `start + index`."""
        return self._finish(self.values[:, index], index)

    def logits(self) -> Tensor:
        """Return (C, N, P, Q) logits of all planes at once."""
        return self._finish(self.values, slice(None))

    def is_finite(self) -> bool:
        """Whether all logits are numbers: a sum that is one has no summand that is none."""
        total_F = self.values.sum(dim=(1, 2, 3))
        total = total_F if self.head is None else self.head(total_F[:, None])
        if bool(torch.isfinite(total).all()):
            return True
        parts = [self.values] if self.head is None else [self.values, self.head.weight, self.head.bias]
        return all(bool(torch.isfinite(part).all()) for part in parts)  # the sum was too large

    def _finish(self, values_F: Tensor, index: int | slice) -> Tensor:
        logits = values_F if self.head is None else self.head(values_F)
        if self.covered is not None:
            assert self.outside is not None
            fill = self.outside.view(-1, *[1] * (logits.dim() - 1))
            logits = torch.where(self.covered[index], logits, fill)
        return logits


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What predicts a window.

    Args:
        members: One per fold.
        mirror_axes: Spatial axes to average mirrored predictions over; () for none.
        head: Of the single member, which then gives features.
        activation: What makes probabilities of (B, C, ...) logits; needed to tell the disagreement.
        device: Where windows go.
    """

    members: Sequence[Member]
    mirror_axes: Sequence[int] = ()
    head: Head | None = None
    activation: Activation | None = None
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("no network was given")
        if self.head is not None and len(self.members) > 1:
            raise ValueError("a head that comes after blending belongs to a single member")

    @torch.inference_mode()
    def __call__(self, stack_BCIJK: Tensor, folder: Path | None = None) -> Tensor:
        """Return the mean (B, F, I, J, K) of members and mirrorings, the disagreement as one more channel.

        For the disagreement all outputs are held, in a file where a folder is given.
        """
        views = [self._view(member, stack_BCIJK, axes) for member in self.members for axes in self._flips()]
        if self.activation is None:
            total = next(first := iter(views))().float()
            for view in first:
                total = total.add_(view())
            return total / len(views)
        with Views(folder) as held:
            for view in views:
                held.add(view().float())
            return held.compare(self.activation, self.head)

    @property
    def n_views(self) -> int:
        """Members times mirrorings."""
        return len(self.members) * len(self._flips())

    def _flips(self) -> list[tuple[int, ...]]:
        axes = self.mirror_axes
        return [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]

    def _view(self, member: Member, stack: Tensor, axes: Sequence[int]) -> Callable[[], Tensor]:
        spatial = [axis + 2 for axis in axes]
        if not spatial:
            return lambda: member(stack)
        return lambda: torch.flip(member(torch.flip(stack, spatial)), spatial)


def stream_logits(
    ensemble: Ensemble,
    image_CIJK: Tensor,
    plan: WindowPlan,
    *,
    window_batch: int = 1,
    blend: Blend = gaussian_weights,
    outside: Sequence[float] | None = None,
    rolling: Rolling | None = None,
) -> Iterator[Slab]:
    """Yield the blended logits of an image slab by slab, in order and without gaps.

    No more planes are held than a window is deep; neither is the image padded or converted as a whole.

    Args:
        ensemble: What predicts a window.
        image_CIJK: Preprocessed image, any real type; zeros around it.
        plan: Of this image's shape.
        window_batch: Windows per forward pass.
        blend: How the voxels of a window are weighed.
        outside: (C,) logits where the plan has no window; needed where it skips some.
        rolling: The buffer to blend in; None: a plain one on the ensemble's device.
    """
    rolling = rolling or Rolling(plan, ensemble.device)
    weights = blend(plan.patch).to(rolling.device)
    fill = None if outside is None else torch.tensor(outside, dtype=torch.float32, device=rolling.device)
    head = None if ensemble.head is None else ensemble.head.to(rolling.device)
    finish = partial(_finish, rolling, replace(ensemble, head=head), fill)
    for start in range(0, len(plan), window_batch):
        batch = plan.windows[start : start + window_batch]
        stack = torch.stack([_cut(image_CIJK, at, plan.patch) for at in batch]).to(ensemble.device)
        scores = ensemble(stack, rolling.folder)
        for at, score in zip(batch, scores):
            yield from finish(at[plan.axis], score)
            rolling.add(at, score.to(rolling.device), weights)
        del stack, scores
    yield from finish(plan.shape[plan.axis], None)


def _finish(
    rolling: Rolling, ensemble: Ensemble, outside: Tensor | None, until: int, score: Tensor | None
) -> Iterator[Slab]:
    """Yield what no window from plane `until` on can change."""
    if score is not None:
        rolling.prepare(len(score))
    for start, stop, values, covered in rolling.finish(until):
        disagreement = None
        if ensemble.activation is not None:
            values, disagreement = values[:-1], values[-1]
        yield Slab(rolling.plan.axis, start, stop, values, ensemble.head, covered, outside, disagreement)


def _cut(image_CIJK: Tensor, start: Triple, patch: Triple) -> Tensor:
    """Return a (C, *patch) float32 window; zeros where it hangs over the image."""
    ends = list(zip(start, patch, image_CIJK.shape[1:], strict=True))
    inside = tuple(slice(max(0, a), min(size, a + edge)) for a, edge, size in ends)
    part = image_CIJK[(slice(None), *inside)]
    if tuple(part.shape[1:]) == patch:
        return part.float()
    window = torch.zeros((len(image_CIJK), *patch), device=image_CIJK.device)
    window[(slice(None), *(slice(s.start - a, s.stop - a) for s, a in zip(inside, start)))] = part
    return window


def predict_logits(
    networks: Sequence[nn.Module],
    image_CIJK: Tensor,
    patch: tuple[int, int, int],
    *,
    dims: int,
    overlap: float,
    mirror_axes: Sequence[int] = (),
    window_batch: int = 1,
    blend: Blend = gaussian_weights,
) -> Tensor:
    """Return the mean logits of all networks and mirrorings as a whole; for images that are not large.

    Args:
        networks: One per fold, in eval mode, on the image's device.
        image_CIJK: Preprocessed image; zeros around it where it is smaller than the patch.
        patch: Window edge in voxels.
        dims: 2 or 3.
        overlap: Of neighbouring windows, as a share of the edge.
        mirror_axes: Spatial axes to average mirrored predictions over; () for none.
        window_batch: Windows per forward pass.
        blend: Gives the weights of a window's voxels.

    Returns:
        (classes, I, J, K) float32 on the image's device.
    """
    plan = plan_windows(image_CIJK.shape[1:], patch, overlap)
    members = [partial(forward, network, dims=dims) for network in networks]
    ensemble = Ensemble(members, mirror_axes, device=image_CIJK.device)
    slabs = stream_logits(ensemble, image_CIJK, plan, window_batch=window_batch, blend=blend)
    return collect(slabs, plan.shape)


def collect(slabs: Iterator[Slab], shape: Triple) -> Tensor:
    """Return the (C, I, J, K) logits of all slabs of an image."""
    whole: Tensor | None = None
    for slab in slabs:
        logits = slab.logits()
        if whole is None:
            whole = torch.empty((len(logits), *shape), device=logits.device)
        whole.movedim(slab.axis + 1, 1)[:, slab.start : slab.stop] = logits
    assert whole is not None, "an image has at least one slab"
    return whole


def forward(network: Callable[[Tensor], Tensor], image_BCIJK: Tensor, dims: int) -> Tensor:
    """Run a 2D or 3D network on (B, C, I, J, K) windows; 2D networks need K = 1."""
    if dims == 2:
        return network(image_BCIJK.squeeze(-1)).float().unsqueeze(-1)
    return network(image_BCIJK).float()


def choose_window_batch(
    network: nn.Module, in_channels: int, patch: Triple, dims: int, small: Triple | None = None
) -> int:
    """Return how many windows to run at once: by formula, so that results do not depend on timing.

    On a CPU the smallest of 1, 2, 4 that lifts every 3D convolution over `SLOW_CONV3D` (the most it
    can, where none does); on CUDA a fixed number.

    Args:
        network: In eval mode.
        in_channels: That it takes.
        patch: Window edge in voxels.
        dims: 2 or 3.
        small: A smaller window whose levels are that much smaller, which is quicker to look at.
    """
    device = next(network.parameters()).device
    if device.type != "cpu":
        return CUDA_WINDOWS
    if dims == 2:
        return 4
    sizes: list[int] = []
    window = small or patch

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Conv3d):
            channels, *edges = inputs[0][0].shape[:3]
            rows = (ceil(n * edge / tried) for n, edge, tried in zip(edges, patch, window))
            sizes.append(channels * prod(rows))

    handles = [module.register_forward_pre_hook(note) for module in network.modules()]
    with torch.inference_mode():
        network(torch.zeros((1, in_channels, *window)))
    for handle in handles:
        handle.remove()
    slow = [sum(size * batch <= SLOW_CONV3D for size in sizes) for batch in (1, 2, 4)]
    return (1, 2, 4)[slow.index(min(slow))]
