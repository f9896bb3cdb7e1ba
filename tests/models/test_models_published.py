"""Parameter counts: derived from the layers that the papers list, and against the published figures.

Networks are built without memory; one channel, two classes.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from medseg.models import MODELS, Grid

NNUNET = (32, 64, 128, 256, 320, 320)  # the classic 3d_fullres plan: patch 128^3, six levels


def count(name: str, dims: int, levels: int, **options: object) -> int:
    strides = ((1,) * dims, *[(2,) * dims] * (levels - 1))
    grid = Grid(dims, (128,) * dims, (1.0,) * dims, strides, ((3,) * dims,) * levels)
    with torch.device("meta"):
        net = MODELS[name](1, 2, grid, **options)
    return sum(weight.numel() for weight in net.parameters())


def conv_norm(inner: int, outer: int, edge: int = 3) -> int:
    """Return the weights of a 3D convolution without bias and of the norm behind it."""
    return inner * outer * edge**3 + 2 * outer


def heads(counts: tuple[int, ...]) -> int:
    return sum(2 * c + 2 for c in counts)


def test_paper_unet_has_the_parameters_of_its_figure():
    widths = (64, 128, 256, 512, 1024)
    down = sum(9 * i * o + o + 9 * o * o + o for i, o in pairwise((1, *widths)))
    up = sum(4 * c * f + f + 9 * 2 * f * f + f + 9 * f * f + f for f, c in pairwise(widths))
    assert count("paper_unet", 2, 5) == down + up + 64 * 2 + 2 == 31_030_658  # 31.03 M


def test_unet_on_the_classic_plan_is_nnunet():
    down = sum(conv_norm(i, o) + conv_norm(o, o) for i, o in pairwise((1, *NNUNET)))
    up = sum(8 * c * f + conv_norm(2 * f, f) + conv_norm(f, f) for f, c in pairwise(NNUNET))
    assert count("unet", 3, 6) == down + up + heads(NNUNET[:4])
    assert count("unet", 3, 6) / 1e6 == pytest.approx(31.2, abs=0.05)


def test_residual_unet_on_the_classic_plan_is_resenc():
    blocks = (1, 3, 4, 6, 6, 6)
    down = conv_norm(1, 32)
    for (inner, outer), depth in zip(pairwise((32, *NNUNET)), blocks):
        down += conv_norm(inner, outer) + (2 * depth - 1) * conv_norm(outer, outer)
        down += conv_norm(inner, outer, edge=1) if inner != outer else 0
    up = sum(8 * c * f + conv_norm(2 * f, f) for f, c in pairwise(NNUNET))
    assert count("residual_unet", 3, 6) == down + up + heads(NNUNET[:4])
    assert count("residual_unet", 3, 6) / 1e6 == pytest.approx(102, abs=0.5)


@pytest.mark.parametrize(("size", "millions"), [("small", 5.55), ("base", 10.51)])
def test_mednext_has_the_published_parameters(size, millions):
    assert count("mednext", 3, 5, size=size) / 1e6 == pytest.approx(millions, abs=0.005)
