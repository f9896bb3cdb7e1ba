"""Two gloo processes, each with half of every batch, against one process with whole batches."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medseg.train.distributed import is_main_process, process_group
from medseg.train.loop import average_gradients

WORKER = """
import os
import sys
import torch
from torch import nn
from medseg.train.distributed import process_group
from medseg.train.loop import Job, train
from medseg.train.settings import Train
from medseg.train.state import start_state

torch.set_num_threads(1)
cpu = torch.device("cpu")
settings = Train(epochs=3, iterations_per_epoch=4, learning_rate=0.05)

def loss(logits, label):
    return nn.functional.cross_entropy(logits, label)

def run(rank, world):
    def batches(epoch, iterations):
        for iteration in range(iterations):
            source = torch.Generator().manual_seed(100 * epoch + iteration)
            image = torch.randn((4, 1, 6, 5, 4), generator=source)
            yield image[rank::world], (image[:, 0] > 0).long()[rank::world]

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 3, 3), nn.LeakyReLU(), nn.ConvTranspose3d(3, 2, 3))
    state = start_state(network, settings, cpu, uses_scaler=False)
    train(state, Job(settings, batches, loss, cpu, torch.float32, 3, 0))
    torch.save(state.average, f"{sys.argv[1]}/{world}_{rank}.pt")

if os.environ["RANK"] == "0":
    run(0, 1)
with process_group(cpu) as share:
    run(*share)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_train_the_same_weights_as_one(tmp_path: Path):
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    started = [
        subprocess.Popen(command, env={**os.environ, **group, "RANK": rank}, stderr=subprocess.PIPE)
        for rank in "01"
    ]
    for process in started:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()
    alone, first, second = (torch.load(tmp_path / name) for name in ("1_0.pt", "2_0.pt", "2_1.pt"))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)


def test_without_torchrun_there_is_one_rank(monkeypatch: pytest.MonkeyPatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with process_group(torch.device("cpu")) as share:
        assert share == (0, 1)
    assert is_main_process()


def test_only_rank_0_writes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()


def test_alone_gradients_stay_as_they_are():
    network = torch.nn.Linear(2, 1)
    network(torch.ones(1, 2)).backward()
    before = network.weight.grad.clone()
    average_gradients(network)
    assert torch.equal(network.weight.grad, before)
