"""The way up that several networks share, with a head per supervised level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from medseg.models.blocks import convolve


class Decoder(nn.Module):
    """Bring the coarsest map up level by level, joining the encoder's map of each.

    Args:
        ups: (levels - 1,) layers to the next finer level, finest first.
        stages: (levels - 1,) what follows the join, finest first.
        features: (levels,) channels, finest first.
        out_channels: Classes including background.
        dims: Spatial axes.
        deep_supervision: Return a list while training; the two coarsest levels have no head, as in nnU-Net.
        is_sum: Maps are added, not concatenated.
    """

    def __init__(
        self,
        ups: Iterable[nn.Module],
        stages: Iterable[nn.Module],
        *,
        features: Sequence[int],
        out_channels: int,
        dims: int,
        deep_supervision: bool,
        is_sum: bool = False,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.is_sum = is_sum
        self.ups = nn.ModuleList(ups)
        self.stages = nn.ModuleList(stages)
        supervised = max(1, len(features) - 2) if deep_supervision else 1
        self.heads = nn.ModuleList(
            convolve(count, out_channels, (1,) * dims, bias=True) for count in features[:supervised]
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Return the logits of `maps`, the encoder's levels, finest first."""
        *skips, below_BC = maps
        is_list = self.deep_supervision and self.training
        outputs = [] if skips else [self.heads[0](below_BC)]
        for level in reversed(range(len(skips))):
            up_BC = self.ups[level](below_BC)
            both_BC = up_BC + skips[level] if self.is_sum else torch.cat([up_BC, skips[level]], dim=1)
            below_BC = self.stages[level](both_BC)
            if level < (len(self.heads) if is_list else 1):
                outputs.insert(0, self.heads[level](below_BC))
        return outputs if is_list else outputs[0]
