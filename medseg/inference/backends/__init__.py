"""What runs a network: `(network, in_channels, patch, dims, *, options) -> Backend`.

A backend takes (B, C, I, J, K) float32 windows of the size it was made for and returns (B, F, I, J, K)
float32 on the same device; a 2D network sees (B, C, I, J), its windows have K = 1. openvino and onnxruntime
are extras, imported when one is made.
"""

from __future__ import annotations

from collections.abc import Callable

from medseg.inference.backends.convert import Backend
from medseg.inference.backends.onnxruntime import onnxruntime_backend
from medseg.inference.backends.openvino import openvino_backend
from medseg.inference.backends.torch import torch_backend

BACKENDS: dict[str, Callable[..., Backend]] = {
    "torch": torch_backend,
    "openvino": openvino_backend,
    "onnxruntime": onnxruntime_backend,
}

__all__ = ["BACKENDS", "Backend"]
