"""Batch norm over all processes of a torchrun job, so that N of them train as one would.

torch's SyncBatchNorm runs on GPUs only; this one is two sums, on any device and backend.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medseg.losses.ranks import is_shared


class SharedBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance are those of the global batch; names and weights are torch's."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and is_shared()):
            return super().forward(input)
        x_BC = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [0, *range(2, x_BC.ndim)]
        shape = (1, -1, *(1,) * (x_BC.ndim - 2))
        size = x_BC.new_tensor([x_BC.numel() / x_BC.shape[1]])
        sums = add_over_ranks(torch.cat([x_BC.sum(axes), size]))
        count, mean_C = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred_BC = x_BC - mean_C.view(shape)
        variance_C = add_over_ranks((centred_BC**2).sum(axes)) / count
        self._note(mean_C.detach(), variance_C.detach() * count / (count - 1).clamp_min(1))
        result_BC = centred_BC * (variance_C + self.eps).rsqrt().view(shape)
        if self.affine:
            result_BC = result_BC * self.weight.view(shape) + self.bias.view(shape)
        return result_BC.to(input.dtype)

    @torch.no_grad()
    def _note(self, mean_C: Tensor, variance_C: Tensor) -> None:
        """Move the running statistics, with the unbiased variance as torch does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return  # it keeps none
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, share)
        self.running_var.lerp_(variance_C, share)


class _AddOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def add_over_ranks(local: Tensor) -> Tensor:
    """Return the sum over ranks; its gradient is the sum of the gradients that all ranks have for it."""
    total: Tensor = _AddOverRanks.apply(local)  # type: ignore[no-untyped-call]
    return total


def share_batch_norms(network: nn.Module) -> None:
    """Let every batch norm of a network see the batches of all ranks, in place; weights keep their names.

    To be called before the network goes to its device.
    """
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, _BatchNorm) and not isinstance(norm, SharedBatchNorm):
                shared = SharedBatchNorm(
                    norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
                )
                shared.load_state_dict(norm.state_dict())
                setattr(parent, name, shared)
