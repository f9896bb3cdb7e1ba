"""Automatic mixed precision where the device really has it.

bf16 autocast on a CPU without bf16 hardware is 49 times slower than float32, so "auto" asks the device.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


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
