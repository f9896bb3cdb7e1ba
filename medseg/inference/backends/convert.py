"""Record a network for one window size in formats that other programs run, and check what they make of it."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.core.errors import ConfigError, is_out_of_memory
from medseg.inference.predict import forward

Backend = Callable[[Tensor], Tensor]
Window = NDArray[np.float32]

# Of the largest logit, at least of 1. Another order of summation moves the logits of a hundred layers by 1e-4
# at most, a wrong constant by their whole range.
TOLERANCE = 1e-3
ONNX_OPSET = (
    17  # the newest that torch's tracing exporter writes whole; InstanceNormalization and Resize are in it
)
FAULTS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What tracing, exporting and compiling raise of a network that they cannot take."""


def require(package: str, extra: str = "") -> Any:
    """Import an optional package.

    Args:
        package: Its name.
        extra: Which of medseg's extras installs it, where that is called otherwise.

    Raises:
        ConfigError: BACKEND_MISSING.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"this needs {error.name or package}, which is not installed",
            hint=f"pip install medseg[{extra or package}]",
            code="BACKEND_MISSING",
        ) from error


def require_cpu(backend: str, network: nn.Module) -> None:
    """Refuse a network on another device: graphs are compiled for the CPU.

    Raises:
        ConfigError: BACKEND_FAILED.
    """
    device = next(network.parameters()).device
    if device.type != "cpu":
        raise _fail(backend, network, f"runs on a CPU, and the network lies on {device.type}")


def make_window(in_channels: int, patch: tuple[int, int, int], *, batch: int = 1, seed: int = 0) -> Tensor:
    """Return (batch, in_channels, *patch) noise like a z-scored image, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, in_channels, *patch), generator=generator)


def flatten(window_BCIJK: Tensor, dims: int) -> Tensor:
    """Return what a network of `dims` axes sees of windows."""
    return window_BCIJK.squeeze(-1) if dims == 2 else window_BCIJK


@contextmanager
def tracing(backend: str, network: nn.Module) -> Iterator[None]:
    """Silence what tracing tells of every fixed size, and explain what it raises.

    Raises:
        ConfigError: BACKEND_FAILED, with the names of network and backend.
    """
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except FAULTS as error:
        if is_out_of_memory(error):
            raise
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise _fail(backend, network, f"cannot be converted: {why}") from error


def to_onnx(network: nn.Module, window_BC: Tensor) -> bytes:
    """Return the network as ONNX with one fixed input, (1, C, *spatial).

    The tracing exporter is ten times faster than its successor and needs no further package than onnx.
    """
    require("onnx", "onnxruntime")
    buffer = io.BytesIO()
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
    torch.onnx.export(network, (window_BC,), buffer, dynamo=False, opset_version=ONNX_OPSET, **names)  # type: ignore[arg-type]
    return buffer.getvalue()


def to_torchscript(network: nn.Module, window_BC: Tensor) -> Any:
    """Return the network as a frozen trace."""
    traced = torch.jit.trace(network, (window_BC,), check_trace=False)  # type: ignore[no-untyped-call]
    return torch.jit.freeze(traced)


def to_openvino(network: nn.Module, window_BC: Tensor) -> Any:
    """Return the network as an OpenVINO model of one fixed input."""
    return require("openvino").convert_model(to_torchscript(network, window_BC), input=list(window_BC.shape))


def one_by_one(call: Callable[[Window], Window], dims: int) -> Backend:
    """Return the backend that gives `call` one (1, C, *spatial) window after the other.

    Compiled graphs have no slow path for single windows, and one shape takes them half the memory of two.
    """

    def run(image_BCIJK: Tensor) -> Tensor:
        windows = flatten(image_BCIJK, dims).contiguous().cpu().numpy()
        logits = torch.cat([torch.from_numpy(call(windows[at : at + 1])) for at in range(len(windows))])
        return (logits.unsqueeze(-1) if dims == 2 else logits).to(image_BCIJK.device)

    return run


def require_equal(backend: str, run: Backend, network: nn.Module, window_BCIJK: Tensor, dims: int) -> None:
    """Compare logits with torch's on a window that was not traced: what depends on its values shows.

    Raises:
        ConfigError: BACKEND_FAILED.
    """
    with torch.inference_mode():
        found, expected = run(window_BCIJK), forward(network, window_BCIJK, dims)
    apart = float((found - expected).abs().max())
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not apart <= limit:
        raise _fail(backend, network, f"gives logits that differ by {apart:.2g}, more than {limit:.2g}")


def _fail(backend: str, network: nn.Module, why: str) -> ConfigError:
    name = type(getattr(network, "net", network)).__name__  # what pads to the stride is not its name
    return ConfigError(f"{name} on {backend} {why}", hint="use --backend torch", code="BACKEND_FAILED")


def convert(
    backend: str,
    network: nn.Module,
    in_channels: int,
    patch: tuple[int, int, int],
    dims: int,
    compile_graph: Callable[[Tensor], Callable[[Window], Window]],
) -> Backend:
    """Return a network compiled elsewhere, once it has given torch's logits.

    Args:
        backend: Its name, a key of `BACKENDS` and the package that it needs.
        network: In eval mode, on the CPU.
        in_channels: Of the image.
        patch: Window edge in voxels.
        dims: 2 or 3.
        compile_graph: Records the network on a (1, C, *spatial) window and returns what runs one.

    Raises:
        ConfigError: BACKEND_FAILED.
    """
    require_cpu(backend, network)
    with tracing(backend, network):
        call = compile_graph(flatten(make_window(in_channels, patch), dims))
    run = one_by_one(call, dims)
    require_equal(backend, run, network, make_window(in_channels, patch, seed=1), dims)
    return run
