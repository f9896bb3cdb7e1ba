"""Additive attention on skip connections (Oktay et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.blocks import CONV, convolve, interpolate


class AttentionGate(nn.Module):
    """Weigh each voxel of a skip by what the level below knows (Oktay et al. 2018, eq. 1 and 2).

    Args:
        fine: Channels of the skip, also of the space where both are compared.
        coarse: Channels of the level below.
        stride: (dims,) steps between the two levels.
    """

    def __init__(self, fine: int, coarse: int, stride: Sequence[int]) -> None:
        super().__init__()
        one = (1,) * len(stride)
        # As in the authors' code: windows that do not overlap bring the skip to the coarse grid.
        self.theta = CONV[len(stride)](fine, fine, tuple(stride), tuple(stride), bias=False)
        self.phi = convolve(coarse, fine, one, bias=True)
        self.psi = convolve(fine, 1, one, bias=True)
        self.widen = interpolate(stride)

    def forward(self, skip_BC: Tensor, below_BC: Tensor) -> Tensor:
        both_BC = torch.relu(self.theta(skip_BC) + self.phi(below_BC))
        return skip_BC * self.widen(torch.sigmoid(self.psi(both_BC)))  # type: ignore[no-any-return]
