"""Where a backbone halves, where it dilates instead, and how far its pyramid reaches, axis by axis.

A ResNet and a Mix Transformer halve in five steps (32 voxels to one). Step i takes the strides and kernel of
the grid's level i, so a coarse axis is neither halved nor convolved before the grid says so. Nothing here
needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from medseg.core.errors import ConfigError
from medseg.models.grid import Grid

STEPS = 5
LEAST_VOXELS = 8  # that an axis keeps by default where the pyramid is laid on it
RATES = (6, 12, 18)  # of maps of 32 voxels (512 at output stride 16): Chen et al. 2018, section 4

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One place where a backbone may halve; every tuple has one entry per axis.

    Args:
        stride: What is left of the grid's stride at the output stride chosen.
        dilation_before: Dilation of the first convolution, which would have carried the stride.
        dilation: Dilation of all later ones.
        kernel: 3, or 1 where the grid does not convolve.
    """

    stride: Axes
    dilation_before: Axes
    dilation: Axes
    kernel: Axes

    @property
    def halves(self) -> bool:
        """Whether the grid halves an axis here, by stride or as dilation."""
        return prod(self.stride) > 1 or self.dilation != self.dilation_before

    @property
    def without_stride(self) -> Step:
        """What follows on the new grid."""
        return Step((1,) * len(self.stride), self.dilation, self.dilation, self.kernel)


def spread_levels(grid: Grid, stem_levels: int | None = None) -> list[tuple[Axes, Axes]]:
    """Return (strides, kernel) of each of the five steps; steps beyond the grid have stride 1.

    Args:
        grid: Levels below the first are dealt to the steps in turn; those beyond five are left out.
        stem_levels: Levels of the stem: 2 as published (stride 4), 1 leaves out the second step and keeps
            the first features twice as fine. None: 2 where the grid has levels for all steps, else 1.

    Raises:
        ConfigError: `STEM_LEVELS` other than 1 and 2.
    """
    if stem_levels not in (None, 1, 2):
        raise ConfigError(
            f"a stem of {stem_levels} levels is not known",
            hint="choose model.options.stem_levels from 1 and 2",
            code="STEM_LEVELS",
        )
    strides, kernels = list(grid.strides[1:]), list(grid.kernels[1:])
    flat = (1,) * grid.dims
    if stem_levels == 1 or (stem_levels is None and len(strides) < STEPS):
        strides.insert(1, flat)
        kernels.insert(1, (kernels or grid.kernels)[0])
    deepest = (kernels or grid.kernels)[-1]
    strides += [flat] * (STEPS - len(strides))
    kernels += [deepest] * (STEPS - len(kernels))
    return [
        (stride, tuple(3 if size > 1 or step > 1 else 1 for size, step in zip(kernel, stride)))
        for stride, kernel in zip(strides[:STEPS], kernels)
    ]


def plan_steps(grid: Grid, output_stride: Sequence[int], stem_levels: int | None = None) -> tuple[Step, ...]:
    """Return the five steps; strides that would pass `output_stride` (dims,) become dilations.

    This is the atrous rule of Chen et al. 2017 (section 3.1), axis by axis: the same weights then give the
    features of the strided network, only more densely.
    """
    steps: list[Step] = []
    reached = dilation = (1,) * grid.dims
    for strides, kernel in spread_levels(grid, stem_levels):
        kept = tuple(s if done * s <= most else 1 for s, done, most in zip(strides, reached, output_stride))
        before = dilation
        dilation = tuple(rate * s // left for rate, s, left in zip(dilation, strides, kept))
        reached = tuple(done * left for done, left in zip(reached, kept))
        steps.append(Step(kept, before, dilation, kernel))
    return tuple(steps)


def total_stride(steps: Sequence[Step]) -> Axes:
    """Return the input voxels per voxel of the last features, axis by axis."""
    return tuple(prod(strides) for strides in zip(*(step.stride for step in steps)))


def choose_output_stride(
    grid: Grid, wanted: int | Sequence[int] | None, most: int, stem_levels: int | None = None
) -> Axes:
    """Return (dims,) the largest stride of each axis.

    Args:
        grid: Gives patch and strides.
        wanted: The user's, for all axes or one per axis. None: up to `most`, but no more than leaves
            `LEAST_VOXELS` of the patch.
        most: 16 or 8 (Chen et al. 2017).
        stem_levels: As in `spread_levels`.

    Raises:
        ConfigError: `OUTPUT_STRIDE` below 1, or not one per axis.
    """
    if wanted is not None:
        chosen = (wanted,) * grid.dims if isinstance(wanted, int) else tuple(wanted)
        if len(chosen) != grid.dims or min(chosen) < 1:
            raise ConfigError(
                f"output stride {wanted} does not fit {grid.dims} axes",
                hint=f"give model.options.output_stride as one number or {grid.dims} numbers, 1 or more",
                code="OUTPUT_STRIDE",
            )
        return chosen
    reached = [1] * grid.dims
    for strides, _ in spread_levels(grid, stem_levels):
        for axis, stride in enumerate(strides):
            further = reached[axis] * stride
            if further <= most and grid.patch[axis] >= LEAST_VOXELS * further:
                reached[axis] = further
    return tuple(reached)


def choose_rates(grid: Grid, steps: Sequence[Step], wanted: Sequence[int] | None = None) -> tuple[Axes, ...]:
    """Return (3, dims) dilations of the pyramid (or as many as wanted), each within the map of a patch.

    A 3-kernel whose rate reaches the edge of the map sees padding only and is a 1-kernel (Chen et al. 2017,
    section 3.3). The default keeps the published proportion of rate to map: 6, 12, 18 from 32 voxels on,
    twice that from 64 voxels on at output stride 8.

    Raises:
        ConfigError: `RATE_TOO_LARGE`: a wanted rate below 1, or past the map on an axis that is convolved.
    """
    edges = [ceil(n / stride) for n, stride in zip(grid.patch, total_stride(steps))]
    if wanted is None:
        caps = [max(1, 16 // stride) for stride in total_stride(steps)]
        return tuple(
            tuple(max(1, min(round(rate * n / 32), rate * cap)) for n, cap in zip(edges, caps))
            for rate in RATES
        )
    convolved = [n for n, size in zip(edges, steps[-1].kernel) if size > 1 and n > 1]
    if min(wanted, default=0) < 1 or (convolved and max(wanted) >= min(convolved)):
        raise ConfigError(
            f"rates {tuple(wanted)} do not fit a map of {tuple(edges)} voxels",
            hint="give model.options.rates from 1 to below the shortest edge, or leave them out",
            code="RATE_TOO_LARGE",
        )
    return tuple((rate,) * grid.dims for rate in wanted)
