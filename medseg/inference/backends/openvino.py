"""OpenVINO on a CPU: the network as one compiled graph, in float32 whatever the CPU would rather take."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from medseg.inference.backends.convert import Backend, Window, convert, require, to_openvino

NAME = "openvino"


def openvino_backend(
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
    openvino = require(NAME)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads

    def compile_graph(window_BC: Tensor) -> Callable[[Window], Window]:
        compiled = openvino.Core().compile_model(to_openvino(network, window_BC), "CPU", settings)
        return lambda window: compiled([window])[0]

    return convert(NAME, network, in_channels, patch, dims, compile_graph)
