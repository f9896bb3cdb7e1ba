"""SegFormer (Xie et al. 2021) in 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from medseg.models.features import pick
from medseg.models.grid import Grid
from medseg.models.segformer_stages import SIZES, VARIANTS, plan_stages

if TYPE_CHECKING:
    from torch import nn


def segformer(
    in_channels: int,
    out_channels: int,
    grid: Grid,
    *,
    size: str = "base",
    variant: str | None = None,
    norm: str = "instance",
    stem_levels: int | None = None,
    patch_stride: int | Sequence[int] | None = None,
    fine_channels: int = 0,
    drop_path: float = 0.0,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a Mix Transformer with an all-MLP head; no positional encodings, so patches of any size.

    Nothing is downloaded. Published weights are loaded by `medseg.models.segformer_weights.load_huggingface`;
    NVIDIA's are for non-commercial use only.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels; the four stages follow its levels.
        size: "nano", "small", "base" (B1) or "large" (B3).
        variant: "b0" to "b5", instead of `size`.
        norm: Of the head: "instance", "group", or "batch" (published weights).
        stem_levels: 2: tokens of 4 voxels an axis as published. 1: of 2 voxels. None: 1 for grids of less
            than six levels.
        patch_stride: Voxels per token of the first stage instead of the grid's, for all or one per axis.
        fine_channels: Channels at full resolution before the classifier; 0: logits are enlarged from the
            first stage, as published.
        drop_path: Chance that the last block is left out for a sample; 0.1 as published.
        dropout: Probability before the classifier.

    Raises:
        ConfigError: Unknown `size`, `variant` or `norm`; a stem or patch stride that does not fit.
    """
    from medseg.models.classifiers import make_classifier
    from medseg.models.layers import Layers
    from medseg.models.mix_transformer import MixTransformer
    from medseg.models.padding import PadToStride
    from medseg.models.segformer_net import MlpHead, SegFormer

    chosen = pick("size", SIZES, size) if variant is None else pick("variant", VARIANTS, variant)
    layers = Layers(grid.dims, norm)
    stages = plan_stages(grid, stem_levels, patch_stride)
    classifier = make_classifier(
        layers, in_channels, chosen.decoder, out_channels, kernel=grid.kernels[0], fine_channels=fine_channels
    )
    net = SegFormer(
        MixTransformer(in_channels, layers, stages, chosen, drop_path),
        MlpHead(layers, chosen.channels, chosen.decoder, dropout),
        classifier,
    )
    return PadToStride(net, [prod(strides) for strides in zip(*(stage.stride for stage in stages))])
