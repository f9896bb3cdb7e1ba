import subprocess
from collections.abc import Callable

import pytest
import torch
from torch import nn

from medseg.train.loop import Job
from medseg.train.precision import (
    autocast,
    choose_precision,
    compare_precision,
    count_compared,
    try_compiling,
    use_fast_kernels,
)
from medseg.train.settings import Train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("wanted", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_what_is_asked_for_is_used(wanted: str, dtype: torch.dtype):
    assert choose_precision(wanted, CPU) is dtype


@pytest.mark.parametrize(
    ("bf16", "amx", "dtype"),
    [(False, False, torch.float32), (True, False, torch.bfloat16), (False, True, torch.bfloat16)],
)
def test_auto_uses_bf16_on_a_cpu_only_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, amx: bool, dtype: torch.dtype
):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    assert choose_precision("auto", CPU) is dtype


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_auto_uses_bf16_on_a_gpu_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert choose_precision("auto", CUDA) is dtype


def test_float32_means_no_autocast():
    with autocast(CPU, torch.float32):
        assert not torch.is_autocast_enabled("cpu")
    with autocast(CPU, torch.bfloat16):
        assert torch.is_autocast_enabled("cpu")


def test_the_forward_pass_runs_in_the_jobs_precision(make_state: Callable, make_job: Callable[..., Job]):
    from medseg.train.loop import train

    seen = set()

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        seen.add(logits.dtype)
        return torch.nn.functional.cross_entropy(logits.float(), label)

    train(make_state(), make_job(loss=loss, dtype=torch.bfloat16, epochs=1))
    assert seen == {torch.bfloat16}


def test_a_bare_off_of_yaml_is_understood():
    assert Train.model_validate({"amp": False}).amp == "off"


def make_pair() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    image = torch.randn((2, 1, 6, 5, 4), generator=source)
    return image, (image[:, 0] > 0).long()


def entropy(output: object, label: torch.Tensor) -> torch.Tensor:
    logits = output[0] if isinstance(output, list) else output
    return torch.nn.functional.cross_entropy(logits.float(), label)


class Rounding(torch.nn.Module):
    """Right in float32, off by `error` in half precision; deep supervision on top."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 2, 3, padding=1)
        self.dropout = torch.nn.Dropout(0.5)
        self.error = error

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        logits = self.dropout(self.layer(image))
        return [logits * (1 + self.error if logits.dtype is torch.bfloat16 else 1)]


def test_half_precision_that_agrees_is_accepted_and_changes_nothing():
    network = Rounding(0.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = compare_precision(network, entropy, *make_pair(), torch.bfloat16)
    assert found.is_good and 0 < found.output < 0.01
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("error", [0.2, float("nan")])
def test_half_precision_that_is_wrong_is_not(error: float):
    found = compare_precision(Rounding(error), entropy, *make_pair(), torch.bfloat16)
    assert not found.is_good


class Backwards(torch.autograd.Function):
    """The identity, whose gradient is three times too large in half precision."""

    @staticmethod
    def forward(ctx, logits):
        return logits.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (3 if gradient.dtype is torch.bfloat16 else 1)


def test_half_precision_whose_gradient_alone_is_wrong_is_not():
    class Wrong(Rounding):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [Backwards.apply(super().forward(image)[0])]

    found = compare_precision(Wrong(0.0), entropy, *make_pair(), torch.bfloat16)
    assert found.output < 0.01 and found.loss < 0.01 and found.gradient > 1 and not found.is_good


def test_compiling_is_tried_forwards_and_backwards_and_kept(monkeypatch: pytest.MonkeyPatch):
    tried, network = [], Rounding(0.0).eval()
    monkeypatch.setattr("torch.compile", lambda f, **k: tried.append(k) or f)
    assert try_compiling(network, entropy, *make_pair(), torch.float32) == ""
    assert tried == [{"dynamic": False}] and network._compiled_call_impl and not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_trial_of_a_compiler_is_in_the_precision_of_training(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def loss(output: list[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        seen.append(output[0].dtype)
        return entropy(output, label)

    monkeypatch.setattr("torch.compile", lambda f, **k: f)
    assert try_compiling(Rounding(0.0), loss, *make_pair(), torch.bfloat16) == ""
    assert seen == [torch.bfloat16]


def test_the_trial_of_a_compiler_leaves_running_statistics_alone(monkeypatch: pytest.MonkeyPatch):
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.BatchNorm3d(2))
    monkeypatch.setattr("torch.compile", lambda f, **k: f)
    assert try_compiling(network, entropy, *make_pair(), torch.float32) == ""
    assert int(network[1].num_batches_tracked) == 0 and not network[1].running_mean.any()


def test_a_compiled_network_keeps_the_names_of_its_weights(monkeypatch: pytest.MonkeyPatch):
    network = Rounding(0.0)
    names = list(network.state_dict())
    monkeypatch.setattr("torch.compile", lambda f, **k: f)
    assert try_compiling(network, entropy, *make_pair(), torch.float32) == ""
    assert list(network.state_dict()) == names


def test_cudnn_times_its_kernels_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.backends.cudnn.benchmark", False)
    use_fast_kernels(CPU)
    assert not torch.backends.cudnn.benchmark
    use_fast_kernels(CUDA)
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("no triton\nline 2"), "no triton"),
        (ImportError(), "ImportError"),
        (subprocess.CalledProcessError(1, "gcc"), "Command 'gcc' returned non-zero exit status 1."),
    ],
)
def test_a_compiler_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str):
    def fail(*inputs: object) -> None:
        raise error

    network = Rounding(0.0)
    monkeypatch.setattr("torch.compile", lambda f, **k: fail)
    assert try_compiling(network, entropy, *make_pair(), torch.float32) == why
    assert network(make_pair()[0])  # runs as it is


def test_memory_that_runs_out_while_compiling_is_no_failure_of_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(*inputs: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    network = Rounding(0.0)
    monkeypatch.setattr("torch.compile", lambda f, **k: fail)
    with pytest.raises(RuntimeError, match="allocate"):
        try_compiling(network, entropy, *make_pair(), torch.float32)
    assert network._compiled_call_impl is None


def test_switches_of_yaml_are_understood():
    assert Train.model_validate({"compile": True}).compile == "on"


@pytest.mark.parametrize(("norm", "batch", "n"), [("Instance", 4, 2), ("Instance", 1, 1), ("Batch", 2, 2)])
def test_half_of_a_batch_is_compared_and_two_samples_where_batch_norm_needs_them(
    norm: str, batch: int, n: int
):
    network = nn.Sequential(nn.Conv3d(1, 2, 1), getattr(nn, f"{norm}Norm3d")(2))
    assert count_compared(network, batch) == n


def test_without_a_backward_pass_only_the_forward_one_is_judged():
    found = compare_precision(Rounding(0.0), entropy, *make_pair(), torch.bfloat16, has_gradient=False)
    assert 0 < found.output < 0.01 and found.gradient == 0
