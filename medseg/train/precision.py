"""Automatic mixed precision where the device really has it, and where it gives the same numbers.

bf16 autocast on a CPU without bf16 hardware is 49 times slower than float32, so "auto" asks the device.
Some releases compute wrong numbers in half precision without a word (bf16 conv3d of big inputs, cuDNN
9.10.2, pytorch#163539), so a batch is compared with float32 before training starts.
"""

from __future__ import annotations

import copy
import math
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medseg.core.errors import is_out_of_memory

# bf16 has 8 significant bits, 0.4 % a rounding; tens of layers add up to 1-3 %. Wrong kernels are off by all.
TOLERANCE = 0.05
GRADIENT_TOLERANCE = 0.2  # of its norm: a backward pass rounds twice as often, through the norms' quotients
FP16_SCALE = 1024.0  # of the loss: small gradients would be 0; training scales them, too


class Agreement(NamedTuple):
    """How far half precision is from float32 on one batch, as shares: |a - b| / |b|."""

    output: float
    loss: float
    gradient: float  # its norm over all weights

    @property
    def is_good(self) -> bool:
        """Whether all are finite and tolerable."""
        limits = (TOLERANCE, TOLERANCE, GRADIENT_TOLERANCE)
        return all(math.isfinite(error) and error <= limit for error, limit in zip(self, limits))


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the dtype for "auto", "off", "bf16" or "fp16" on a device."""
    if wanted == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return the forward pass's context; nothing for float32."""
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)


def count_compared(network: nn.Module, batch: int) -> int:
    """Return how many samples of a batch can make a float32 step: half, as it takes twice the memory.

    Memory was planned for steps in the precision of training. Batch norm needs two samples. Where that is all
    of them, there is room for a forward pass alone.
    """
    has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    return min(batch, max(2 if has_batch_norm else 1, batch // 2))


def compare_precision(
    network: nn.Module,
    loss: Callable[..., Tensor],
    image_BC: Tensor,
    label_B: Tensor,
    dtype: torch.dtype,
    *,
    has_gradient: bool = True,
) -> Agreement:
    """Run one batch in `dtype` and in float32 on a copy of the network, forward and backward.

    Args:
        network: On its device; unchanged.
        loss: Of output and label.
        image_BC: (B, C, *spatial), on the device.
        label_B: (B, *spatial), on the device.
        dtype: bfloat16 or float16.
        has_gradient: Whether there is a backward pass; without one the gradient's error is 0.
    """
    trial = copy.deepcopy(network).train()
    results: list[tuple[Tensor, float, float]] = []
    devices = [image_BC.device] if image_BC.is_cuda else []
    for kind in (dtype, torch.float32):
        scale = FP16_SCALE if kind is torch.float16 else 1.0
        trial.zero_grad(set_to_none=True)
        with torch.random.fork_rng(devices), torch.set_grad_enabled(has_gradient):
            torch.manual_seed(0)  # the same dropout
            with autocast(image_BC.device, kind):
                output = trial(image_BC)
                value = loss(output, label_B)
            if has_gradient:
                (value * scale).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.float().norm() for p in trial.parameters() if p.grad is not None]
        norm = float(torch.stack(gradients).norm()) / scale if gradients else 0.0
        finest = (output if isinstance(output, Tensor) else output[0]).detach().float()
        results.append((finest, float(value.detach()), norm))
    (half, *half_numbers), (full, *full_numbers) = results
    error = float((half - full).norm() / full.norm().clamp_min(1e-12))
    others = [abs(a - b) / max(abs(b), 1e-12) for a, b in zip(half_numbers, full_numbers)]
    return Agreement(error, *others)


def use_fast_kernels(device: torch.device) -> None:
    """Let cuDNN time its kernels for every new shape: patches have one, windows of validation a few."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


def compile_network(network: nn.Module) -> None:
    """Compile in place, so that the names of its weights stay; at the first call, and for its shape alone.

    A second shape (the last part of an uneven batch) gets code of its own, not slower code for any shape.
    """
    network.compile(dynamic=False)


def try_compiling(
    network: nn.Module, loss: Callable[..., Tensor], image_BC: Tensor, label_B: Tensor, dtype: torch.dtype
) -> str:
    """Compile the network in place; return "", or why it cannot be: then it stays as it is.

    Compilers fail at the first call, so a forward and a backward pass are run, in the precision of training:
    in another one more memory would be needed, and all would be compiled again. No weight and no running
    statistic changes.
    """
    before = network.training
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    works = False
    try:
        compile_network(network.train())
        with autocast(image_BC.device, dtype):
            value = loss(network(image_BC), label_B)
        value.backward()  # type: ignore[no-untyped-call]
        works = True
    except (RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
        if is_out_of_memory(error):
            raise
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    finally:
        if not works:
            network._compiled_call_impl = None  # torch has no name for the way back
        for buffer, value in buffers:
            buffer.copy_(value)
        network.zero_grad(set_to_none=True)
        network.train(before)
    return ""
