"""Time a 3D convolution in float32, bf16 and fp16 and compare results: libraries have gone wrong in both."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.nn import functional

SHAPE = {"cpu": (2, 16, 8, 16, 16), "cuda": (2, 32, 96, 96, 96)}  # (B, C, I, J, K)
REPEATS = 3
# Relative errors of one convolution, a few roundings: bf16 has 8 bits of mantissa, fp16 11.
BOUNDS = {torch.bfloat16: 1e-2, torch.float16: 2e-3}
NAMES = {torch.float32: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Convolution:
    """What was measured of one precision.

    Args:
        step_s: Seconds, forward and backward, the fastest of some.
        error: |result - float32's| / |float32's|, the worse of output and gradient of the weight.
    """

    step_s: float
    error: float


def compare_precisions(device: torch.device) -> dict[torch.dtype, Convolution]:
    """Return the measurement of every precision, float32 first."""
    source = torch.Generator().manual_seed(0)
    shape = SHAPE[device.type]
    image = torch.randn(shape, generator=source).to(device)
    weight = (torch.randn((shape[1], shape[1], 3, 3, 3), generator=source) / (27 * shape[1]) ** 0.5).to(
        device
    )
    measured = {}
    exact: list[torch.Tensor] = []
    for dtype in NAMES:
        step_s, results = _convolve(image.to(dtype), weight.to(dtype))
        exact = exact or results
        errors = (float((mine - true).norm() / true.norm()) for mine, true in zip(results, exact))
        measured[dtype] = Convolution(step_s, max(errors))
    return measured


def _convolve(image: torch.Tensor, weight: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    """Return the fastest forward and backward pass, and output and weight gradient in float32."""
    weight = weight.detach().requires_grad_()
    fastest, results = float("inf"), [image]
    for _ in range(REPEATS):
        started = time.perf_counter()
        output = functional.conv3d(image, weight, padding=1)
        (gradient,) = torch.autograd.grad(output, weight, output.detach())
        if image.device.type == "cuda":
            torch.cuda.synchronize(image.device)
        fastest = min(fastest, time.perf_counter() - started)
        results = [output.detach().float(), gradient.float()]
    return fastest, results
