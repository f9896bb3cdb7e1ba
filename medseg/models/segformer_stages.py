"""The four stages of a Mix Transformer on a grid, as plain data; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medseg.core.errors import ConfigError
from medseg.models.grid import Grid
from medseg.models.steps import Axes, spread_levels


@dataclass(frozen=True)
class Size:
    """A row of Xie et al. 2021, table 6 (channels, blocks, heads), or a smaller one.

    Args:
        channels: Of the four stages.
        depths: Blocks of the four stages.
        heads: Of the attention; each divides its stage's channels.
        widening: Of the Mix-FFN, times the channels.
        decoder: Channels of the all-MLP head.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    widening: tuple[int, int, int, int] = (4, 4, 4, 4)
    decoder: int = 768


VARIANTS = {
    "b0": Size((32, 64, 160, 256), (2, 2, 2, 2), decoder=256),
    "b1": Size((64, 128, 320, 512), (2, 2, 2, 2), decoder=256),
    "b2": Size((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": Size((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": Size((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": Size((64, 128, 320, 512), (3, 6, 40, 3)),
}
SIZES = {
    "nano": Size((8, 16, 16, 32), (1, 1, 1, 1), heads=(1, 2, 2, 4), widening=(2, 2, 2, 2), decoder=16),
    # The fine stages are thin, because a convolution per channel in 3D is slow on a CPU.
    "small": Size((24, 48, 96, 160), (1, 2, 2, 2), heads=(1, 2, 4, 5), widening=(2, 4, 4, 4), decoder=64),
    "base": VARIANTS["b1"],
    "large": VARIANTS["b3"],
}


@dataclass(frozen=True)
class Stage:
    """Where a stage's tokens lie; every tuple has one entry per axis.

    Args:
        stride: From the stage above (the first: from the image).
        patch: Kernel of the patch embedding, odd; twice the stride less one, so that patches overlap.
        reduction: Tokens per key.
        kernel: 3 or 1, of the Mix-FFN. Along an axis of kernel 1 slices do not attend to each other either.
    """

    stride: Axes
    patch: Axes
    reduction: Axes
    kernel: Axes


def plan_stages(
    grid: Grid, stem_levels: int | None = None, patch_stride: int | Sequence[int] | None = None
) -> tuple[Stage, ...]:
    """Return the four stages.

    The first patch embedding takes the grid's first two steps at once (7-kernels of stride 4 on isotropic
    voxels, as published), or one step with `stem_levels` 1. Keys are reduced to the last stage's grid: by 8,
    4, 2, 1 an axis as published where each stage halves, so that in 3D there are few of them as well.

    Args:
        grid: Strides and kernels.
        stem_levels: As in `spread_levels`.
        patch_stride: Stride of the first stage instead of the grid's, for all axes or one per axis.

    Raises:
        ConfigError: `STEM_LEVELS`, or `PATCH_STRIDE` below 1 or not one per axis.
    """
    (first, thin), (second, _), *rest = spread_levels(grid, stem_levels)
    stem = tuple(a * b for a, b in zip(first, second))
    if patch_stride is not None:
        stem = (patch_stride,) * grid.dims if isinstance(patch_stride, int) else tuple(patch_stride)
        if len(stem) != grid.dims or min(stem) < 1:
            raise ConfigError(
                f"patch stride {patch_stride} does not fit {grid.dims} axes",
                hint=f"give model.options.patch_stride as one number or {grid.dims} numbers, 1 or more",
                code="PATCH_STRIDE",
            )
    thin = tuple(max(size, 3 if step > 1 else 1) for size, step in zip(thin, stem))
    strides = [stem, *(stride for stride, _ in rest)]
    kernels = [thin, *(kernel for _, kernel in rest)]
    stages = []
    below = (1,) * grid.dims  # strides of the stages to come
    for stride, kernel in zip(reversed(strides), reversed(kernels)):
        patch = tuple(max(2 * step - 1, size) for step, size in zip(stride, kernel))
        reduction = tuple(step if size > 1 else 1 for step, size in zip(below, kernel))
        stages.append(Stage(stride, patch, reduction, kernel))
        below = tuple(done * step for done, step in zip(below, stride))
    return tuple(reversed(stages))
