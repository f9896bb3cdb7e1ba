"""ONNX Runtime on a CPU."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from medseg.inference.backends.convert import Backend, Window, convert, require, to_onnx

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
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of initialisers that its optimizer removes
    if threads:
        options.intra_op_num_threads = threads

    def compile_graph(window_BC: Tensor) -> Callable[[Window], Window]:
        content = to_onnx(network, window_BC)
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return lambda window: session.run(None, {"image": window})[0]

    return convert(NAME, network, in_channels, patch, dims, compile_graph)
