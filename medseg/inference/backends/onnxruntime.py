"""ONNX Runtime on a CPU."""

from __future__ import annotations

from torch import nn

from medseg.inference.backends.convert import (
    Backend,
    flatten,
    make_window,
    one_by_one,
    require,
    require_cpu,
    require_equal,
    to_onnx,
    tracing,
)

NAME = "onnxruntime"


def onnxruntime_backend(
    network: nn.Module,
    in_channels: int,
    patch: tuple[int, int, int],
    dims: int,
    *,
    threads: int | None = None,
) -> Backend:
    """Convert a network.

    Args:
        network: In eval mode, on the CPU.
        in_channels: Of the image.
        patch: Window edge in voxels.
        dims: 2 or 3.
        threads: None takes all.

    Raises:
        ConfigError: BACKEND_MISSING, BACKEND_FAILED.
    """
    onnxruntime = require(NAME)
    require_cpu(NAME, network)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of initialisers that its optimizer removes
    if threads:
        options.intra_op_num_threads = threads
    with tracing(NAME, network):
        content = to_onnx(network, flatten(make_window(in_channels, patch), dims))
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    run = one_by_one(lambda window: session.run(None, {"image": window})[0], dims)
    require_equal(NAME, run, network, make_window(in_channels, patch, seed=1), dims)
    return run
