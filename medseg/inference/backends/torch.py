"""torch itself: eager on a CPU, in half precision and, if asked for, compiled on CUDA."""

from __future__ import annotations

import logging
import subprocess

import torch
from torch import Tensor, nn

from medseg.core.errors import is_out_of_memory
from medseg.inference.backends.convert import Backend, make_window
from medseg.inference.predict import forward

log = logging.getLogger(__name__)


def torch_backend(
    network: nn.Module,
    in_channels: int,
    patch: tuple[int, int, int],
    dims: int,
    *,
    threads: int | None = None,
    compiles: bool = False,
) -> Backend:
    """Run a network as it is; it takes all windows that come at once (see `choose_window_batch`).

    Args:
        network: In eval mode; where it lies it runs.
        in_channels: Of the image.
        patch: Window edge in voxels.
        dims: 2 or 3.
        threads: Of the CPU, for the whole process; None leaves them as they are.
        compiles: Whether to compile on CUDA, which takes about a minute; on a CPU it gains nothing.
    """
    if threads:
        torch.set_num_threads(threads)
    device = next(network.parameters()).device
    if device.type == "cpu":
        return torch.inference_mode()(lambda image_BCIJK: forward(network, image_BCIJK, dims))
    run = run_in_half(network, device, dims)
    return compile_or_not(network, run, make_window(in_channels, patch).to(device), dims) if compiles else run


def run_in_half(network: Backend, device: torch.device, dims: int) -> Backend:
    """Return the backend that lets autocast choose float16 where it is safe; logits come as float32."""

    @torch.inference_mode()
    def run(image_BCIJK: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.float16):
            logits = forward(network, image_BCIJK, dims)
        return logits.float()

    return run


def compile_or_not(network: nn.Module, plain: Backend, window_BCIJK: Tensor, dims: int) -> Backend:
    """Return the compiled network, or `plain` and a warning; compilers fail at first use, so it is used."""
    try:
        run = run_in_half(torch.compile(network), window_BCIJK.device, dims)
        run(window_BCIJK)
    except (RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
        if is_out_of_memory(error):
            raise
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        log.warning("COMPILE_REFUSED torch.compile failed, inference goes on without (%s)", why)
        return plain
    return run
