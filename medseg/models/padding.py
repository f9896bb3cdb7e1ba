"""One forward contract for every network: any size in, the same size out.

Letters of tensor names: B batch, C channels, the rest spatial.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from torch.nn import functional


class PadToStride(nn.Module):
    """Pad at the end of each axis to what `net` can halve, and crop its outputs back.

    The edge voxel is repeated, because zeros would shift the instance normalisation.

    Args:
        net: Takes (B, C, *spatial) with axes divisible by `total_stride`; returns one tensor, or a
            list of tensors, finest first, each at its own resolution.
        total_stride: (dims,) input voxels per voxel of the coarsest level.
    """

    def __init__(self, net: nn.Module, total_stride: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.total_stride = tuple(total_stride)

    def forward(self, image_BC: Tensor) -> Tensor | list[Tensor]:
        # Plain numbers: a tracer would record the sums below, and exported ones round towards zero.
        shape = tuple(int(n) for n in image_BC.shape[2:])
        padded = padded_shape(shape, self.total_stride)
        if padded == shape:
            return self.net(image_BC)  # type: ignore[no-any-return]
        ends = [end - n for n, end in zip(shape, padded)]
        amounts = [amount for end in reversed(ends) for amount in (0, end)]
        output = self.net(functional.pad(image_BC, amounts, mode="replicate"))
        if isinstance(output, list):
            return [_crop(level_BC, shape, padded) for level_BC in output]
        return _crop(output, shape, padded)


def padded_shape(shape: Sequence[int], total_stride: Sequence[int]) -> tuple[int, ...]:
    """Return the smallest shape >= `shape` that `total_stride` divides and that leaves >= 2 voxels.

    Instance normalisation of a single voxel is undefined and torch refuses it, so an input that would
    shrink to one voxel gets one more step along the axis where that costs least.
    """
    steps = [-(-n // stride) for n, stride in zip(shape, total_stride)]
    if prod(steps) == 1:
        cheapest = min(range(len(steps)), key=lambda axis: total_stride[axis])
        steps[cheapest] = 2
    return tuple(count * stride for count, stride in zip(steps, total_stride))


def _crop(level_BC: Tensor, shape: Sequence[int], padded: Sequence[int]) -> Tensor:
    """Cut a level of (possibly) lower resolution to the part that covers `shape`."""
    for axis, (n, end) in enumerate(zip(shape, padded), start=2):
        level_BC = level_BC.narrow(axis, 0, -(-n * int(level_BC.shape[axis]) // end))
    return level_BC
