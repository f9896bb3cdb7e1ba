"""The Mix Transformer encoder of SegFormer (Xie et al. 2021, section 3.1), in 2D and 3D.

Letters of tensor names: B batch, N tokens that attend to each other, C channels, H heads; spatial axes are
not named. Within a stage channels come last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.models.layers import Layers, channels_first, channels_last
from medseg.models.segformer_stages import Size, Stage


class PatchEmbedding(nn.Module):
    """Overlapping patches to tokens: (B, C, *spatial) -> (B, *coarser, C)."""

    def __init__(self, layers: Layers, inner: int, outer: int, stage: Stage) -> None:
        super().__init__()
        self.project = layers.make_conv(inner, outer, stage.patch, stride=stage.stride, bias=True)
        self.norm = nn.LayerNorm(outer)

    def forward(self, features_BC: Tensor) -> Tensor:
        tokens_BC: Tensor = self.norm(channels_last(self.project(features_BC)))
        return tokens_BC


class Attention(nn.Module):
    """Every token attends to keys and values of a reduced grid (section 3.1, eq. 2).

    Args:
        layers: Makes the layers.
        channels: Of the tokens.
        heads: Divides the channels.
        stage: Its reduction, and the axes (of kernel 1) whose slices are kept apart.
    """

    def __init__(self, layers: Layers, channels: int, heads: int, stage: Stage) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        self.reduces = max(stage.reduction) > 1
        if self.reduces:
            self.reduce = layers.make_reduction(channels, stage.reduction)
            self.norm = nn.LayerNorm(channels)
        apart = [axis for axis, size in enumerate(stage.kernel, start=1) if size == 1]
        together = [axis for axis, size in enumerate(stage.kernel, start=1) if size > 1]
        self.order = [0, *apart, *together, layers.dims + 1]
        self.n_apart = len(apart)

    def forward(self, tokens_BC: Tensor) -> Tensor:
        sources_BC = tokens_BC
        if self.reduces:
            sources_BC = self.norm(channels_last(self.reduce(channels_first(tokens_BC))))
        query_BHNC = self._split(self.query(tokens_BC))
        key_BHNC, value_BHNC = self._split(self.key(sources_BC)), self._split(self.value(sources_BC))
        mixed_BHNC = functional.scaled_dot_product_attention(query_BHNC, key_BHNC, value_BHNC)
        ordered = [tokens_BC.shape[axis] for axis in self.order]
        mixed_BC = mixed_BHNC.transpose(1, 2).reshape(ordered)
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        result_BC: Tensor = self.out(mixed_BC.permute(back))
        return result_BC

    def _split(self, tokens_BC: Tensor) -> Tensor:
        """(B, *spatial, C) -> (B times slices, heads, N, C / heads)."""
        ordered_BC = tokens_BC.permute(self.order)
        slices_BC = ordered_BC.flatten(0, self.n_apart)
        channels = tokens_BC.shape[-1]
        return slices_BC.reshape(slices_BC.shape[0], -1, self.heads, channels // self.heads).transpose(1, 2)


class MixFeedForward(nn.Module):
    """Two linear layers with a convolution per channel between them, which tells positions (eq. 3)."""

    def __init__(self, layers: Layers, channels: int, width: int, stage: Stage) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, width)
        self.mix = layers.make_conv(width, width, stage.kernel, groups=width, bias=True)
        self.contract = nn.Linear(width, channels)

    def forward(self, tokens_BC: Tensor) -> Tensor:
        wide_BC = functional.gelu(self.mix(channels_first(self.expand(tokens_BC))))
        result_BC: Tensor = self.contract(channels_last(wide_BC))
        return result_BC


class Block(nn.Module):
    """Attention and Mix-FFN, normalised before and added; `drop` is the chance that a sample skips them."""

    def __init__(
        self, layers: Layers, channels: int, heads: int, width: int, *, stage: Stage, drop: float
    ) -> None:
        super().__init__()
        self.drop = drop
        self.norm_attention = nn.LayerNorm(channels)
        self.attention = Attention(layers, channels, heads, stage)
        self.norm_mix = nn.LayerNorm(channels)
        self.mix = MixFeedForward(layers, channels, width, stage)

    def forward(self, tokens_BC: Tensor) -> Tensor:
        tokens_BC = tokens_BC + self._skip(self.attention(self.norm_attention(tokens_BC)))
        return tokens_BC + self._skip(self.mix(self.norm_mix(tokens_BC)))

    def _skip(self, branch_BC: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016), sample by sample, with the mean kept."""
        if not self.training or self.drop == 0:
            return branch_BC
        shape = (branch_BC.shape[0],) + (1,) * (branch_BC.dim() - 1)
        kept_B = torch.rand(shape, device=branch_BC.device) >= self.drop
        return branch_BC * (kept_B / (1 - self.drop))


class MixStage(nn.Module):
    """Patch embedding, blocks and a norm: (B, C, *spatial) -> (B, *coarser, C).

    Args:
        layers: Makes the layers.
        inner: Channels in.
        stage: Where its tokens lie.
        size: Of the encoder.
        index: Of the stage, 0 to 3.
        drops: Chance of stochastic depth of each block.
    """

    def __init__(
        self, layers: Layers, inner: int, stage: Stage, *, size: Size, index: int, drops: Sequence[float]
    ) -> None:
        super().__init__()
        channels, heads = size.channels[index], size.heads[index]
        width = channels * size.widening[index]
        self.embed = PatchEmbedding(layers, inner, channels, stage)
        self.blocks = nn.Sequential(
            *(Block(layers, channels, heads, width, stage=stage, drop=drop) for drop in drops)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, features_BC: Tensor) -> Tensor:
        tokens_BC: Tensor = self.norm(self.blocks(self.embed(features_BC)))
        return tokens_BC


class MixTransformer(nn.Module):
    """Give the tokens of four stages, finest first, each (B, *spatial, C).

    Args:
        in_channels: Channels of the image.
        layers: Makes the layers.
        stages: Four, of `plan_stages`.
        size: Channels, depths and heads.
        drop: Chance of stochastic depth at the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self, in_channels: int, layers: Layers, stages: Sequence[Stage], size: Size, drop: float
    ) -> None:
        super().__init__()
        total = sum(size.depths)
        drops = [drop * block / (total - 1) for block in range(total)]
        inner = (in_channels, *size.channels)
        self.stages = nn.ModuleList()
        for index, (stage, depth) in enumerate(zip(stages, size.depths)):
            own, drops = drops[:depth], drops[depth:]
            self.stages.append(MixStage(layers, inner[index], stage, size=size, index=index, drops=own))

    def forward(self, image_BC: Tensor) -> list[Tensor]:
        features_BC = image_BC
        levels_BC: list[Tensor] = []
        for stage in self.stages:
            levels_BC.append(stage(features_BC))
            features_BC = channels_first(levels_BC[-1])
        return levels_BC
