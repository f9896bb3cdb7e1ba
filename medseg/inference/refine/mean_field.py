"""Mean field for a pairwise model: what neighbours say, and updates that never raise the free energy.

Shape legend: N voxels that take part, O neighbours, F image channels, X voxels of the padded box, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medseg.inference.refine.window import Window

PAIRS_AT_ONCE = 1 << 20  # 12 MiB of indices, differences and strengths; larger is no faster
TINY = 1e-8  # a probability below it counts as it: a network that is sure can still be overruled
HALVINGS = 8  # of a step, before a voxel's neighbours are taken to be settled


class Coupling:
    """Which voxels act on those that take part, and how strongly; kernels are computed as they are needed.

    The strength of a pair is smooth(offset) + bilateral(offset) * exp(-|difference of intensities|^2 / 2).
    """

    def __init__(self, image_FIJK: Tensor, active_IJK: Tensor, window: Window) -> None:
        """Fix the box that matters: around the voxels that take part, by the reach of the window.

        Args:
            image_FIJK: Intensities in units of their sigma.
            active_IJK: bool; at least one voxel.
            window: With two kernels: smooth, bilateral.
        """
        device = image_FIJK.device
        places = active_IJK.nonzero()
        reach = torch.from_numpy(abs(window.offsets).max(axis=0))
        low, high = places.amin(0).cpu(), places.amax(0).cpu()
        start = (low - reach).clamp_min(0)
        stop = torch.minimum(high + reach + 1, torch.tensor(active_IJK.shape))
        self._box = tuple(slice(a, b) for a, b in zip(start.tolist(), stop.tolist()))
        # Beyond the image there is nothing: a margin of the reach, whose rows hold no probability.
        before, after = start - low + reach, high + reach + 1 - stop
        self._pads = [int(n) for pair in zip(before.flip(0), after.flip(0)) for n in pair]
        _, rows_j, rows_k = (stop - start + before + after).tolist()
        strides = torch.tensor([rows_j * rows_k, rows_k, 1])
        self._rows = ((places.cpu() - start + before) @ strides).int().to(device)
        self._deltas = (torch.from_numpy(window.offsets) @ strides).int().to(device)
        smooth, bilateral = (torch.from_numpy(weights).float().to(device) for weights in window.weights)
        self._smooth, self._bilateral = smooth, bilateral if bool(bilateral.any()) else None
        self._image = self.tabulate(image_FIJK).T.contiguous()

    @property
    def pairs(self) -> int:
        """Pairs of voxels that one pass looks at."""
        return len(self._rows) * len(self._deltas)

    def tabulate(self, values_CIJK: Tensor) -> Tensor:
        """Return (X, C) the values within the padded box."""
        padded = functional.pad(values_CIJK[(slice(None), *self._box)], self._pads)
        return padded.flatten(1).T.contiguous()

    def place(self, values_NC: Tensor) -> Tensor:
        """Return (X, C) with the values of voxels that take part, and zeros elsewhere."""
        table = values_NC.new_zeros(self._image.shape[1], values_NC.shape[1])
        table[self._rows] = values_NC
        return table

    def gather(self, table_XC: Tensor) -> Tensor:
        """Return (N, C) the sum over each voxel's neighbours of strength times value."""
        size = max(1, PAIRS_AT_ONCE // len(self._deltas))
        sums = table_XC.new_empty(
            len(self._rows), table_XC.shape[1]
        )  # small parts would lie between large ones
        for rows, target in zip(torch.split(self._rows, size), torch.split(sums, size)):
            neighbours = rows[:, None] + self._deltas
            strengths = self._compare(rows, neighbours)
            # One fused pass gathers, weighs and sums; each voxel's sum runs in the order of the offsets.
            target.copy_(
                functional.embedding_bag(neighbours, table_XC, per_sample_weights=strengths, mode="sum")
            )
        return sums

    def _compare(self, rows: Tensor, neighbours: Tensor) -> Tensor:
        """Return (n, O) the strength of each pair."""
        if self._bilateral is None:
            return self._smooth.expand(neighbours.shape).contiguous()
        total: Tensor | None = None
        for channel in self._image:
            values = channel.index_select(0, neighbours.flatten()).view(neighbours.shape)
            square = values.sub_(channel[rows][:, None]).square_()
            total = square if total is None else total.add_(square)
        assert total is not None, "an image has a channel"
        return torch.addcmul(self._smooth, self._bilateral, total.mul_(-0.5).exp_())


@dataclass(frozen=True, eq=False)
class Relaxed:
    """Where the updates ended.

    Args:
        probabilities: (N, C) of the voxels that take part.
        energies: Free energy after each update, less that at the start; never rising. In nats.
    """

    probabilities: Tensor
    energies: list[float]


def relax(
    start_NC: Tensor,
    message_NC: Tensor,
    spread: Callable[[Tensor], Tensor],
    *,
    iterations: int,
    tolerance: float,
) -> Relaxed:
    """Lower the free energy sum Q (log Q - log P) + 1/2 sum over pairs, of distributions Q that begin as P.

    All voxels move at once towards T, where each would go if the others stood still (Krähenbühl and Koltun
    2011, alg. 1). Doing just that can go round in circles, and the energy up. But T - Q is always a way down:
    along it the energy's slope is -KL(Q|T) - KL(T|Q). And messages are linear in Q, so that those of T - Q
    alone tell the energy of any part of the way; the step is halved until the energy does not rise.

    Args:
        start_NC: P.
        message_NC: What all neighbours, those that stay as they are included, cost each class at the start.
        spread: Moves (N, C) -> what these change of the messages; symmetric.
        iterations: At most so many updates, each one call of `spread`.
        tolerance: It ends once no probability would move by more.
    """
    unary = -start_NC.clamp_min(TINY).log()
    now, message, energies = start_NC, message_NC, [0.0]
    for _ in range(iterations):
        target = torch.softmax(-(unary + message), dim=1)
        move = target - now
        if float(move.abs().max()) <= tolerance:
            break
        change = spread(move)
        slope = float((message * move).sum(dtype=torch.float64))
        curve = float((change * move).sum(dtype=torch.float64)) / 2
        before = _local_energy(now, unary)
        for step in (0.5**halving for halving in range(HALVINGS)):
            there = now.lerp(target, step).clamp_min(0)
            gain = _local_energy(there, unary) - before + step * slope + step**2 * curve
            if gain <= 0:
                break
        else:
            break  # at the bottom, within the precision of the sums
        now, message = there, message + step * change
        energies.append(energies[-1] + gain)
    return Relaxed(now, energies)


def _local_energy(probabilities_NC: Tensor, unary_NC: Tensor) -> float:
    local = probabilities_NC * unary_NC - torch.special.entr(probabilities_NC)
    return float(local.sum(dtype=torch.float64))
