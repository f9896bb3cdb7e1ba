"""Slide a network over an image and blend its windows.

Shape legend: B windows, C channels or classes, (I, J, K) voxels. A 2D network has a patch with K = 1
and sees (B, C, I, J).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.inference.windows import Window, gaussian_weights, place_windows

# On a CPU torch takes a slow 3D convolution where N*C*D*H <= 20480 (measured with torch 2.13: 95 ms
# against 8.8 ms for one more row); two or four windows at once lift most layers over it.
SLOW_CONV3D = 20480
CUDA_WINDOWS = 8


def predict_logits(
    networks: Sequence[Callable[[Tensor], Tensor]],
    image_CIJK: Tensor,
    patch: tuple[int, int, int],
    *,
    dims: int,
    overlap: float,
    mirror_axes: Sequence[int] = (),
    window_batch: int = 1,
) -> Tensor:
    """Return the mean logits of all networks and mirrorings, blended with Gaussian weights.

    Args:
        networks: One per fold, in eval mode, on the image's device.
        image_CIJK: Preprocessed image; padded with zeros where it is smaller than the patch.
        patch: Window edge in voxels.
        dims: 2 or 3.
        overlap: Of neighbouring windows, as a share of the edge.
        mirror_axes: Spatial axes to average mirrored predictions over; () for none.
        window_batch: Windows per forward pass.

    Returns:
        (classes, I, J, K) float32 on the image's device.
    """
    shape = image_CIJK.shape[1:]
    missing = [max(0, edge - size) for edge, size in zip(patch, shape)]
    pads = [amount for short in reversed(missing) for amount in (short // 2, short - short // 2)]
    padded = functional.pad(image_CIJK, pads) if any(missing) else image_CIJK
    windows = place_windows(padded.shape[1:], patch, overlap)
    weights = gaussian_weights(patch).to(padded.device)
    total = weight_sum = None
    with torch.inference_mode():
        for batch in _chunks(windows, window_batch):
            stack = torch.stack([padded[(slice(None), *window)] for window in batch])
            logits = _average(networks, stack, dims, mirror_axes)
            if total is None or weight_sum is None:
                total = torch.zeros((logits.shape[1], *padded.shape[1:]), device=padded.device)
                weight_sum = torch.zeros(padded.shape[1:], device=padded.device)
            for window, scores in zip(batch, logits):
                # float32: half-precision sums are slower on a CPU and lose small weights.
                total[(slice(None), *window)].addcmul_(scores, weights)
                weight_sum[window] += weights
        if total is None or weight_sum is None:
            raise ValueError("an image has at least one window")
        total /= weight_sum
    crop = tuple(slice(short // 2, short // 2 + size) for short, size in zip(missing, shape))
    return total[(slice(None), *crop)]


def _chunks(windows: Sequence[Window], size: int) -> Iterator[Sequence[Window]]:
    for start in range(0, len(windows), size):
        yield windows[start : start + size]


def _average(
    networks: Sequence[Callable[[Tensor], Tensor]], stack: Tensor, dims: int, mirror_axes: Sequence[int]
) -> Tensor:
    flips = [axes for count in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, count)]
    total: Tensor | None = None
    for network in networks:
        for axes in flips:
            spatial = [axis + 2 for axis in axes]
            logits = torch.flip(forward(network, torch.flip(stack, spatial), dims), spatial)
            total = logits if total is None else total.add_(logits)
    if total is None:
        raise ValueError("no network was given")
    return total / (len(networks) * len(flips))


def forward(network: Callable[[Tensor], Tensor], image_BCIJK: Tensor, dims: int) -> Tensor:
    """Run a 2D or 3D network on (B, C, I, J, K) windows; 2D networks need K = 1."""
    if dims == 2:
        return network(image_BCIJK.squeeze(-1)).float().unsqueeze(-1)
    return network(image_BCIJK).float()


def choose_window_batch(network: nn.Module, in_channels: int, patch: tuple[int, int, int], dims: int) -> int:
    """Return how many windows to run at once: by formula, so that results do not depend on timing.

    On a CPU the smallest of 1, 2, 4 that lifts every 3D convolution over `SLOW_CONV3D` (the most it
    can, where none does); on CUDA a fixed number.
    """
    device = next(network.parameters()).device
    if device.type != "cpu":
        return CUDA_WINDOWS
    if dims == 2:
        return 4
    sizes: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Conv3d):
            sizes.append(inputs[0][0].shape[:3].numel())

    handles = [module.register_forward_pre_hook(note) for module in network.modules()]
    with torch.inference_mode():
        network(torch.zeros((1, in_channels, *patch)))
    for handle in handles:
        handle.remove()
    slow = [sum(size * batch <= SLOW_CONV3D for size in sizes) for batch in (1, 2, 4)]
    return (1, 2, 4)[slow.index(min(slow))]
