from collections.abc import Callable

import pytest
import torch

from medseg.data.loader import Batch
from medseg.train import budget
from medseg.train.budget import epochs_within
from medseg.train.loop import Job
from medseg.train.state import TrainState

MakeState = Callable[..., TrainState]
MakeJob = Callable[..., Job]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that each training step moves by 2 seconds."""
    now = [100.0]

    def step(state: TrainState, job: Job, batch: object) -> torch.Tensor:
        now[0] += 2.0
        return torch.zeros(())

    monkeypatch.setattr(budget, "train_step", step)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_the_number_of_epochs_is_the_hand_computed_one(
    make_state: MakeState, make_job: MakeJob, clock: list[float]
):
    # 10 minutes x 0.85 = 510 s = 255 iterations of 2 s = 85 epochs of 3
    assert epochs_within(10, make_state(), make_job(iterations_per_epoch=3)) == 85


def test_the_copy_of_a_compiled_network_is_compiled(
    make_state: MakeState, make_job: MakeJob, clock: list[float], monkeypatch: pytest.MonkeyPatch
):
    compiled, state = [], make_state()
    monkeypatch.setattr(budget, "compile_network", compiled.append)
    epochs_within(10, state, make_job())
    assert not compiled
    epochs_within(10, state, make_job(is_compiled=True))
    assert len(compiled) == 1 and compiled[0] is not state.network


def test_the_clock_waits_for_the_gpu(
    make_state: MakeState, make_job: MakeJob, clock: list[float], monkeypatch: pytest.MonkeyPatch
):
    def wait(device: torch.device) -> None:
        clock[0] += 8.0  # of steps that were only queued, at the start and at the end

    monkeypatch.setattr("torch.cuda.synchronize", wait)
    job = make_job(device=torch.device("cuda"), iterations_per_epoch=3)
    # (4 x 2 + 8) / 4 = 4 s an iteration
    assert epochs_within(10, make_state(), job) == 42


def test_it_is_one_epoch_at_least(make_state: MakeState, make_job: MakeJob, clock: list[float]):
    assert epochs_within(0.001, make_state(), make_job()) == 1


def test_starting_up_does_not_count(make_state: MakeState, make_job: MakeJob, clock: list[float]):
    def slow_start(epoch: int, iterations: int):
        clock[0] += 1000
        for _ in range(iterations):
            yield Batch(torch.zeros(1), torch.zeros(1), ())

    assert epochs_within(10, make_state(), make_job(batches=slow_start)) == 85


def test_timing_changes_neither_the_weights_nor_the_optimizer(make_state: MakeState, make_job: MakeJob):
    state, untouched = make_state(), make_state()
    assert epochs_within(0.01, state, make_job()) >= 1
    pairs = zip(state.network.state_dict().values(), untouched.network.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)
    assert state.optimizer.state_dict() == untouched.optimizer.state_dict()
    assert all(torch.equal(state.average[name], value) for name, value in untouched.average.items())
