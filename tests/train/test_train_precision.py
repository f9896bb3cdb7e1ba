from collections.abc import Callable

import pytest
import torch

from medseg.train.loop import Job
from medseg.train.precision import autocast, choose_precision
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
