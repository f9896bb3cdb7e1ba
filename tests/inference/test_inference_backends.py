"""Backends: the same logits whatever runs the network, and a choice that tells why."""

import logging
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.core.select import select
from medseg.inference.backends import BACKENDS, convert
from medseg.inference.backends import torch as torch_room
from medseg.inference.backends.choose import Candidate, choose_backend
from medseg.inference.head import split_head
from medseg.inference.model import load_model
from medseg.models import MODELS, Grid
from tests.nnunet_folders import write_results

PATCH = {3: (16, 24, 8), 2: (32, 24, 1)}
CONVERTED = [name for name in BACKENDS if name != "torch"]
CASES = [("light_unet", 3), ("unet", 2), ("residual_unet", 3), ("fpn", 2)]


def build(name: str, dims: int, outputs: int = 3) -> nn.Module:
    steps = ((1, 1, 1), (2, 2, 1), (2, 2, 2)) if dims == 3 else ((1, 1), (2, 2), (2, 2))
    kernels = ((3,) * dims,) * 3
    grid = Grid(dims, PATCH[dims][:dims], (1.0, 1.0, 2.0)[:dims], steps, kernels, (4, 6, 8))
    torch.manual_seed(0)
    return select("model", MODELS, name)(2, outputs, grid).eval()


def windows(dims: int, batch: int = 3) -> Tensor:
    return convert.make_window(2, PATCH[dims], batch=batch, seed=7)


@pytest.mark.parametrize(("name", "dims"), CASES)
@pytest.mark.parametrize("backend", CONVERTED)
def test_logits_and_classes_equal_those_of_torch(backend: str, name: str, dims: int):
    network = build(name, dims)
    made = [BACKENDS[each](network, 2, PATCH[dims], dims, threads=1) for each in ("torch", backend)]
    expected, found = (run(windows(dims)) for run in made)
    assert found.shape == expected.shape == (3, 3, *PATCH[dims]) and found.dtype is torch.float32
    assert (found - expected).abs().max() < 1e-3
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.9999


@pytest.mark.parametrize("backend", CONVERTED)
def test_a_network_of_an_nnunet_folder_gives_the_classes_of_torch(backend: str, tmp_path: Path):
    model = load_model(write_results(tmp_path), torch.device("cpu"))
    network, patch = model.networks[0], model.plan.patch
    image = convert.make_window(1, patch, batch=3, seed=7)
    made = [BACKENDS[each](network, 1, patch, 3, threads=1)(image) for each in ("torch", backend)]
    assert (made[0].argmax(1) == made[1].argmax(1)).float().mean() > 0.9999
    assert len(made[0].argmax(1).unique()) > 1


@pytest.mark.parametrize("backend", CONVERTED)
def test_a_trunk_whose_head_comes_late_gives_the_classes_of_torch(backend: str):
    parts = split_head(build("light_unet", 3, outputs=9), windows(3, batch=1))
    assert parts is not None
    trunk, head = parts
    made = [BACKENDS[each](trunk, 2, PATCH[3], 3, threads=1)(windows(3)) for each in ("torch", backend)]
    assert made[1].shape == (3, head.weight.shape[1], *PATCH[3])
    expected, found = (torch.stack([head(window).argmax(0) for window in part]) for part in made)
    assert (found == expected).float().mean() > 0.9999 and len(expected.unique()) > 2


class OfValues(nn.Module):
    """A branch that depends on the image: a trace keeps the one that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image) * (1.0 if float(image[0, 0, 0, 0, 0]) > seen() else 2.0)


def seen() -> float:
    """Return a value between the first voxels of the two probes, so that each takes another branch."""
    return float(sum(convert.make_window(2, (4, 4, 4), seed=seed)[0, 0, 0, 0, 0] for seed in (0, 1)) / 2)


class Untraceable(OfValues):
    def forward(self, image: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise ValueError("not this one")
        return self.conv(image)


@pytest.mark.parametrize("backend", CONVERTED)
@pytest.mark.parametrize(("network", "words"), [(OfValues, "differ by"), (Untraceable, "not this one")])
def test_a_network_that_does_not_convert_is_named_with_its_backend(backend: str, network: type, words: str):
    with pytest.raises(ConfigError, match=f"{network.__name__} on {backend} .*{words}") as caught:
        BACKENDS[backend](network().eval(), 2, (4, 4, 4), 3)
    assert caught.value.code == "BACKEND_FAILED"


def test_no_memory_while_converting_is_no_fault_of_the_network():
    with pytest.raises(RuntimeError, match="allocate"), convert.tracing("openvino", OfValues()):
        raise RuntimeError("can't allocate memory: 9 bytes")


@pytest.mark.parametrize("backend", CONVERTED)
def test_a_network_on_a_gpu_is_not_compiled_for_the_cpu(backend: str):
    with pytest.raises(ConfigError, match="runs on a CPU, and the network lies on meta"):
        BACKENDS[backend](nn.Conv3d(2, 3, 1, device="meta"), 2, (4, 4, 4), 3)


@pytest.mark.parametrize(("backend", "missing"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_a_missing_package_is_named_with_what_installs_it(backend, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=f"needs {missing}") as caught:
        BACKENDS[backend](OfValues(), 2, (4, 4, 4), 3)
    assert (caught.value.code, caught.value.hint) == ("BACKEND_MISSING", f"pip install medseg[{backend}]")


def test_half_precision_is_told_as_float32():
    network = nn.Conv3d(2, 3, 1).eval()
    window = convert.make_window(2, (4, 4, 4))
    found = torch_room.run_in_half(network, torch.device("cpu"), 3)(window)
    with torch.inference_mode():
        expected = network(window)
    assert found.dtype is torch.float32
    assert 0 < (found - expected).abs().max() < 1e-2


def test_a_compiled_network_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", lambda network: lambda image: network(image) + 1)
    network, window = nn.Conv3d(2, 3, 1).eval(), convert.make_window(2, (4, 4, 4))
    plain = torch_room.run_in_half(network, window.device, 3)
    run = torch_room.compile_or_not(network, plain, window, 3)
    assert torch.allclose(run(window), plain(window) + 1, atol=1e-2)


def test_off_the_cpu_a_network_is_compiled_only_if_asked(monkeypatch: pytest.MonkeyPatch):
    tried: list[int] = []
    monkeypatch.setattr(torch_room, "compile_or_not", lambda *_: tried.append(1))
    for compiles in (False, True):
        BACKENDS["torch"](nn.Conv3d(2, 3, 1, device="meta"), 2, (4, 4, 4), 3, compiles=compiles)
        assert len(tried) == int(compiles)


def refuse(network: nn.Module, text: str) -> None:
    raise RuntimeError(text)


def test_a_compiler_that_fails_costs_a_warning(monkeypatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(torch, "compile", partial(refuse, text="no gcc\nmore"))
    with caplog.at_level(logging.WARNING):
        assert torch_room.compile_or_not(nn.Conv3d(2, 3, 1), abs, windows(3), 3) is abs
    assert caplog.messages == ["COMPILE_REFUSED torch.compile failed, inference goes on without (no gcc)"]


def test_no_memory_while_compiling_is_raised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", partial(refuse, text="can't allocate memory"))
    with pytest.raises(RuntimeError, match="allocate"):
        torch_room.compile_or_not(nn.Conv3d(2, 3, 1), abs, windows(3), 3)


# ---- choosing -----------------------------------------------------------------------------------


class Bench:
    """A clock that only backends move: seconds per window and per network are what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, setup_s: float = 0.0, **seconds: float) -> None:
        self.now, self.setup_s = 0.0, setup_s
        self.made: list[tuple[str, nn.Module]] = []
        for name in BACKENDS:
            builder = partial(self.build, name, seconds.get(name))
            monkeypatch.setitem(BACKENDS, name, builder)

    def build(self, name, seconds, network, *_, threads=None, compiles=False):
        if seconds is None:
            raise ConfigError(f"{name} is not here", code="BACKEND_MISSING")
        self.made.append((name, network))
        self.now += self.setup_s if name != "torch" else 0.0

        def run(image: Tensor) -> Tensor:
            self.now += seconds * len(image) * (0.75 if name == "torch" and len(image) == 2 else 1.0)
            self.now -= seconds * len(image) / 2 if compiles else 0.0
            return image

        return run

    def choose(self, asked: str = "auto", n: int = 1, device: str = "cpu", **options):
        networks = [nn.Conv3d(2, 3, 1, device=device) for _ in range(n)]
        return choose_backend(asked, networks, 2, (8, 8, 8), 3, clock=lambda: self.now, **options)


def test_a_name_is_taken_without_measuring(monkeypatch: pytest.MonkeyPatch):
    bench = Bench(monkeypatch, openvino=5.0)
    decision, backends = bench.choose("openvino", n=2)
    assert decision.chosen == Candidate("openvino") and bench.now == 0 and len(backends) == 2


def test_torch_gets_the_window_batch_of_the_formula():
    for channels, batch in ((100, 2), (120, 1)):  # x 16 x 12: below 20480, and above
        decision, _ = choose_backend("torch", [nn.Conv3d(channels, 3, 3)], channels, (16, 12, 8), 3)
        assert decision.chosen == Candidate("torch", batch)


def test_auto_takes_the_fastest(monkeypatch: pytest.MonkeyPatch):
    decision, _ = Bench(monkeypatch, torch=4.0, openvino=1.0, onnxruntime=2.0).choose()
    assert decision.chosen == Candidate("openvino", seconds=1.0)


def test_auto_tries_two_windows_at_once(monkeypatch: pytest.MonkeyPatch):
    decision, _ = Bench(monkeypatch, torch=4.0).choose()
    assert decision.chosen == Candidate("torch", 2, seconds=3.0)


def test_what_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch):
    decision, _ = Bench(monkeypatch, torch=4.0, onnxruntime=9.0).choose()
    assert decision.describe() == (
        "backend torch x2: torch x1 4 s; openvino x1 BACKEND_MISSING: openvino is not here; "
        "onnxruntime x1 9 s; torch x2 3 s"
    )
    assert decision.to_json()["candidates"][1]["fault"] == "BACKEND_MISSING: openvino is not here"


def test_a_conversion_per_network_counts_where_the_work_is_known(monkeypatch: pytest.MonkeyPatch):
    bench = Bench(monkeypatch, setup_s=60.0, torch=4.0, openvino=1.0)
    assert bench.choose(n=5, n_windows=20)[0].chosen.backend == "torch"
    assert bench.choose(n=5, n_windows=100)[0].chosen.backend == "openvino"


def test_little_work_is_torchs_without_a_trial(monkeypatch: pytest.MonkeyPatch):
    bench = Bench(monkeypatch, torch=0.1, openvino=0.01)
    decision, _ = bench.choose(n_windows=10)
    assert [name for name, _ in bench.made] == ["torch"] and decision.chosen.backend == "torch"


def test_every_network_gets_a_backend_of_its_own(monkeypatch: pytest.MonkeyPatch):
    bench = Bench(monkeypatch, torch=4.0, openvino=1.0)
    _, backends = bench.choose(n=3)
    assert len(backends) == 3
    assert len({id(network) for name, network in bench.made if name == "openvino"}) == 3


def test_a_slow_candidate_is_measured_once(monkeypatch: pytest.MonkeyPatch):
    bench = Bench(monkeypatch, torch=1.0, onnxruntime=50.0)
    decision, _ = bench.choose()
    # Three windows of torch alone, three pairs, and one window of what is slow.
    assert bench.now == pytest.approx(3 * 1.0 + 3 * 1.5 + 50.0) and decision.chosen.window_batch == 2


def test_on_a_gpu_compiling_is_tried_where_the_work_is_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    bench = Bench(monkeypatch, torch=1.0, openvino=0.1)
    for work, name in ((None, "torch x8"), (999, "torch x8"), (1000, "torch compiled x8")):
        assert bench.choose(device="meta", n_windows=work)[0].chosen.name == name


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigError, match="no backend is called `openvin`") as caught:
        choose_backend("openvin", [nn.Conv3d(2, 3, 1)], 2, (4, 4, 4), 3)
    assert caught.value.hint == "did you mean `openvino`?"


def test_auto_is_among_the_names_that_an_unknown_one_is_answered_with():
    with pytest.raises(ConfigError) as caught:
        choose_backend("tensorrt", [nn.Conv3d(2, 3, 1)], 2, (4, 4, 4), 3)
    assert "auto" in str(caught.value.hint)
