"""The network, and its windows over an image."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from itertools import combinations, product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Network = Callable[[Array], Array]


def load_network(path: Path, threads: int) -> Network:
    """Return the network: (1, C, *window) float32 -> (1, classes, *window) float32."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda window: session.run(None, {session.get_inputs()[0].name: window})[0]
    if path.suffix == ".xml":
        import openvino

        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        return lambda window: compiled([window])[0]
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or cores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it tells of its successor
        module: Any = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return torch.inference_mode()(lambda window: module(torch.from_numpy(window)).numpy())


def predict(image_CIJK: Array, pipeline: Any, networks: Sequence[Network]) -> Array:
    """Return (classes, I, J, K) logits, blended over windows."""
    patch, shape = pipeline["patch"], image_CIJK.shape[1:]
    short = [max(0, edge - size) for edge, size in zip(patch, shape)]
    padded = np.pad(image_CIJK, [(0, 0), *((n // 2, n - n // 2) for n in short)])
    rows = []
    for size, edge in zip(padded.shape[1:], patch):
        count = ceil((size - edge) / max(1.0, edge * (1 - pipeline["overlap"])) - 1e-9) + 1
        rows.append([int(start) for start in np.linspace(0, size - edge, count).round()])
    weights = window_weights(patch, pipeline["window_weights"])
    weight_sum = np.zeros(padded.shape[1:], np.float32)
    total: Array | None = None
    for start in product(*rows):
        at = tuple(slice(first, first + edge) for first, edge in zip(start, patch))
        logits = average(padded[(slice(None), *at)], pipeline, networks)
        if total is None:
            total = np.zeros((len(logits), *padded.shape[1:]), np.float32)
        total[(slice(None), *at)] += logits * weights
        weight_sum[at] += weights
    assert total is not None, "an image has at least one window"
    total /= weight_sum
    return total[(slice(None), *(slice(n // 2, n // 2 + size) for n, size in zip(short, shape)))]


def average(window_CIJK: Array, pipeline: Any, networks: Sequence[Network]) -> Array:
    """Return the mean (classes, I, J, K) logits of a window over networks and mirrorings."""
    mirrored = pipeline["mirror_axes"]
    flips = [axes for count in range(len(mirrored) + 1) for axes in combinations(mirrored, count)]
    total: Any = np.float32(0)
    for network, axes in product(networks, flips):
        spatial = tuple(1 + axis for axis in axes)
        seen = np.flip(window_CIJK, spatial)[None]
        if pipeline["dims"] == 2:
            seen = seen[..., 0]
        logits = network(np.ascontiguousarray(seen, np.float32))[0]
        total = total + np.flip(logits[..., None] if pipeline["dims"] == 2 else logits, spatial)
    return np.asarray(total / np.float32(len(networks) * len(flips)))


def window_weights(patch: Sequence[int], rule: Any) -> Array:
    """Return a Gaussian, 1 in the middle, with a floor."""
    weights = np.ones(patch, np.float32)
    for axis, edge in enumerate(patch):
        if edge > 1:
            offset = np.arange(edge, dtype=np.float32) - np.float32((edge - 1) / 2)
            line = np.exp(np.float32(-0.5) * (offset / np.float32(edge * rule["sigma_share"])) ** 2)
            weights = weights * line.reshape([edge if other == axis else 1 for other in range(3)])
    return np.maximum(weights, np.float32(rule["floor"]))
