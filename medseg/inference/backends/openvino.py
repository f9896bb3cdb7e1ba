"""OpenVINO on a CPU: the network as one compiled graph, in float32 whatever the CPU would rather take."""

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
    to_openvino,
    tracing,
)

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
    require_cpu(NAME, network)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    with tracing(NAME, network):
        model = to_openvino(network, flatten(make_window(in_channels, patch), dims))
        compiled = openvino.Core().compile_model(model, "CPU", settings)
    run = one_by_one(lambda window: compiled([window])[0], dims)
    require_equal(NAME, run, network, make_window(in_channels, patch, seed=1), dims)
    return run
