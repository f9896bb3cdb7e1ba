"""Soft clDice plus Dice: keeps vessels, airways and nerves connected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medseg.losses.dice import average_dice
from medseg.losses.overlap import average_classes, pool
from medseg.losses.voxels import compare, foreground


def cldice(
    logits_BC: Tensor,
    label_B: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    batch_dice: bool = False,
    smooth: float = 1e-5,
    iterations: int = 3,
    cldice_share: float = 0.5,
) -> Tensor:
    """Return (1 - a) x `dice` + a x (1 - soft clDice), a = `cldice_share`.

    Shit et al. 2021, eq. 4, with the 0.5 of their code. clDice is the harmonic mean of two shares: of the
    predicted skeleton that lies in the label, and of the label's skeleton that is predicted.

    Args:
        logits_BC: (B, C, *spatial), 2D or 3D.
        label_B: (B, *spatial), integer.
        class_weights: (C,) including background, which both terms leave out; weights of their means.
        ignore_index: Label of voxels that count for nothing.
        batch_dice: Sums over the whole batch, in both terms.
        smooth: Of all ratios, in voxels.
        iterations: Erosions of the skeleton: at least the radius of the widest tube, in voxels.
        cldice_share: a.
    """
    voxels = compare(logits_BC, label_B, ignore_index)
    overlap = average_dice(
        voxels, class_weights=class_weights, batch_dice=batch_dice, include_background=False, smooth=smooth
    )
    valid_B = voxels.valid.view(label_B.shape)
    dices = []
    for p_BN, inside_BN in foreground(voxels):
        target_BN = inside_BN.to(p_BN.dtype)
        drawn_BN = skeletonize(p_BN.view(label_B.shape), valid_B, iterations).flatten(1)
        true_BN = skeletonize(target_BN.view(label_B.shape), valid_B, iterations).flatten(1)
        precision, sensitivity = (
            (pool((skeleton * mask).sum(1), batch_dice) + smooth)
            / (pool(skeleton.sum(1), batch_dice) + smooth)
            for skeleton, mask in ((drawn_BN, target_BN), (true_BN, p_BN))
        )
        dices.append(2 * precision * sensitivity / (precision + sensitivity))
    centred = average_classes(1 - torch.stack(dices, 1), voxels, class_weights, pooled=batch_dice)
    return (1 - cldice_share) * overlap + cldice_share * centred


def skeletonize(p_B: Tensor, valid_B: Tensor, iterations: int) -> Tensor:
    """Return the soft skeleton: what openings by a voxel take away, after 0, 1, ... erosions.

    Shit et al. 2021, algorithm 1. Ignored voxels are as if beyond the image: nothing is eroded from there.

    Args:
        p_B: (B, *spatial) in 0..1.
        valid_B: (B, *spatial) bool.
        iterations: Erosions.

    Returns:
        (B, *spatial) in 0..1; 0 where ignored.
    """
    skeleton = p_B.new_zeros(p_B.shape)
    for _ in range(iterations + 1):
        eroded = _erode(p_B, valid_B)
        thin = functional.relu(p_B - _dilate(eroded, valid_B))
        skeleton = skeleton + functional.relu(thin - skeleton * thin)
        p_B = eroded
    return torch.where(valid_B, skeleton, 0)


def _erode(p_B: Tensor, valid_B: Tensor) -> Tensor:
    """Return the least of each voxel and its face neighbours."""
    dims = p_B.ndim - 1
    negative = -torch.where(valid_B, p_B, 1)
    crosses = [tuple(3 if axis == own else 1 for axis in range(dims)) for own in range(dims)]
    pools = [_max_pool(negative, kernel) for kernel in crosses]
    return -torch.stack(pools).amax(0)


def _dilate(p_B: Tensor, valid_B: Tensor) -> Tensor:
    """Return the largest of each voxel and all its neighbours."""
    return _max_pool(torch.where(valid_B, p_B, 0), (3,) * (p_B.ndim - 1))


def _max_pool(p_B: Tensor, kernel: tuple[int, ...]) -> Tensor:
    pool_nd = functional.max_pool2d if len(kernel) == 2 else functional.max_pool3d
    return pool_nd(p_B[:, None], kernel, stride=1, padding=[edge // 2 for edge in kernel])[:, 0]
