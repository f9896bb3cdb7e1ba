"""The climb to the largest rung, on injected peaks; and trials in processes of their own, which may die."""

from __future__ import annotations

import multiprocessing
import os
import signal
from functools import partial

import pytest
import torch

from medseg.core.errors import ConfigError, ResourceError
from medseg.train import probe
from medseg.train.probe import Cost, climb, measure, peak_mb, read_peak_mb

WORKS = [1.0 * 2**power for power in range(8)]  # 1 to 128


def climbed(peak_of, target, works=WORKS):
    tried = []

    def look(rung):
        tried.append(works[rung])
        return peak_of(works[rung])

    chosen = climb(works, look, target)
    return (None if chosen is None else works[chosen]), tried


def test_two_small_measurements_give_the_line_and_a_third_verifies():
    assert climbed(lambda work: 100 + 10 * work, target=800) == (64, [1, 8, 64])


def test_a_peak_of_exactly_the_target_fits():
    assert climbed(lambda work: 100 + 10 * work, target=740) == (64, [1, 8, 64])


def test_the_last_rung_ends_the_climb():
    assert climbed(lambda work: 100 + work, target=1e6) == (128, [1, 8, 128])


def test_one_rung_is_only_verified():
    assert climbed(lambda work: 100, 200, [5.0]) == (5.0, [5.0])
    assert climbed(lambda work: 300, 200, [5.0]) == (None, [5.0])


def test_not_even_the_smallest():
    assert climbed(lambda work: None, target=800) == (None, [1])


def test_more_memory_than_the_line_said_corrects_it():
    # 1 and 8 promise 64 for 800; there the peak is 1060, and the line from 8 to 64 allows 32.
    assert climbed(lambda work: 100 + 10 * work if work < 20 else 100 + 15 * work, 800) == (
        32,
        [1, 8, 64, 32],
    )


def test_less_memory_than_the_line_said_is_used_too():
    peaks = {1: 110.0, 8: 500.0, 16: 520.0}
    assert climbed(lambda work: peaks.get(work, 600.0), target=1e3) == (128, [1, 8, 16, 128])


def test_after_a_trial_that_had_to_be_ended_the_next_is_a_fifth_smaller():
    works = [1.0, 8.0, 50.0, 60.0, 70.0]
    chosen = climbed(lambda work: 100 + 10 * work if work <= 55 else None, 1000, works)
    assert chosen == (50.0, [1.0, 8.0, 70.0, 50.0])


def test_a_second_rung_that_had_to_be_ended_is_followed_by_one_halfway():
    assert climbed(lambda work: 100 * work if work < 8 else None, target=450) == (4, [1, 8, 2, 4])


def test_a_line_that_does_not_rise_is_no_licence():
    assert climbed(lambda work: 300, target=800) == (128, [1, 8, 64, 128])


def test_measurements_are_few():
    works = [1.05**power for power in range(400)]
    _, tried = climbed(lambda work: 100 if work < 2 else None, 800, works)
    assert len(tried) <= probe.MAX_PROBES


# --- processes ---------------------------------------------------------------------------------


def succeed() -> Cost:
    return Cost(read_peak_mb(), 0.5)


def raise_(error: Exception) -> Cost:
    raise error


def die(number: int) -> Cost:
    os.kill(os.getpid(), number)
    raise AssertionError


def fill(megabytes: int) -> Cost:
    held = [b"x" * (1 << 20) for _ in range(megabytes)]
    return Cost(read_peak_mb(), len(held))


@pytest.mark.slow
def test_a_trial_counts_its_own_imports_and_not_this_process():
    held = torch.ones(1 << 26)  # 256 MB here
    cost = measure(succeed, None)
    assert cost is not None and 50 < cost.peak_mb < read_peak_mb() - 0.9 * held.nbytes / 2**20 + 50


@pytest.mark.slow
def test_a_trial_above_the_cap_is_ended():
    assert measure(partial(fill, 100_000), 1000.0) is None


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork instead of spawn, so that nothing is imported again: it is the parent that is tested."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(probe.multiprocessing, "get_context", lambda kind: fork)


def test_running_out_of_memory_is_an_answer(here: None):
    assert measure(partial(raise_, MemoryError()), None) is None
    assert measure(partial(raise_, RuntimeError("DefaultCPUAllocator: can't allocate memory")), None) is None


def test_the_kernel_ending_a_trial_is_an_answer(here: None):
    assert measure(partial(die, signal.SIGKILL), None) is None


def test_an_error_of_ours_comes_back(here: None):
    with pytest.raises(ConfigError, match="no such network") as caught:
        measure(partial(raise_, ConfigError("no such network", hint="another", code="X")), None)
    assert (caught.value.code, caught.value.hint) == ("X", "another")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("a bug")])
def test_a_bug_is_not_called_lack_of_memory(here: None, error: Exception, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(ResourceError) as caught:
        measure(partial(raise_, error), None)
    assert caught.value.code == "MEMORY_PROBE" and str(error) in capfd.readouterr().err


@pytest.mark.parametrize(
    ("trial", "sent"),
    [
        (partial(raise_, MemoryError()), "None"),
        (partial(raise_, ConfigError("wrong")), "ConfigError('wrong')"),
        (partial(Cost, 1.0, 2.0), "Cost(peak_mb=1.0, step_s=2.0)"),
    ],
)
def test_the_fresh_process_sends_what_came_out(trial: probe.Trial, sent: str):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    probe._work(sender, trial)
    assert repr(receiver.recv()) == sent


def test_the_fresh_process_keeps_the_traceback_of_a_bug():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with pytest.raises(RuntimeError, match="shapes differ"):
        probe._work(sender, partial(raise_, RuntimeError("shapes differ")))
    assert not receiver.poll()


def test_without_proc_nothing_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probe.Path, "exists", lambda path: False)
    with pytest.raises(ResourceError, match="Linux"):
        measure(succeed, None)


def test_a_process_that_is_gone_has_no_peak():
    assert read_peak_mb(2**22 + 1) == 0.0


def test_on_a_gpu_the_peak_is_what_torch_reserved_and_the_context(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 << 20)
    assert peak_mb(torch.device("cuda")) == 3 + probe.CONTEXT_MB


@pytest.mark.parametrize(("cap_mb", "share"), [(2560.0, 0.5), (100.0, 1 / 4096), (99_999.0, 1.0)])
def test_on_a_gpu_torch_is_limited_to_the_cap(monkeypatch: pytest.MonkeyPatch, cap_mb: float, share: float):
    class Properties:
        total_memory = 4 << 30

    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, device: limits.append(part)
    )
    probe.limit_device(torch.device("cuda"), cap_mb)
    probe.limit_device(torch.device("cpu"), cap_mb)
    assert limits == [share]
