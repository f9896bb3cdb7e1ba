"""Two gloo processes, each with half of every batch, against one process with whole batches."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from medseg.train.distributed import agree, average_step, gather, is_main_process, process_group

WORKER = """
import math
import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from medseg.core.errors import ResourceError
from medseg.data.loader import Batch
from medseg.losses import LOSSES
from medseg.train.batch_norm import share_batch_norms
from medseg.train.distributed import process_group
from medseg.train.loop import Job, train
from medseg.train.settings import Train
from medseg.train.state import load_checkpoint, save_checkpoint, start_state
from medseg.workflows.start import settle_engine

torch.set_num_threads(1)
cpu, folder = torch.device("cpu"), Path(sys.argv[1])

def run_norms(rank, world, name):
    def batches(epoch, iterations):
        for iteration in range(iterations):
            source = torch.Generator().manual_seed(100 * epoch + iteration)
            image = torch.randn((5, 1, 6, 5, 4), generator=source) * torch.arange(1, 6).view(5, 1, 1, 1, 1)
            yield Batch(image[rank::world], (image[:, 0] > 1).long()[rank::world], ())

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1, bias=False), nn.BatchNorm3d(3), nn.LeakyReLU(), nn.Conv3d(3, 2, 1)
    )
    if world > 1:
        share_batch_norms(network)
    state = start_state(network, Train(epochs=2, iterations_per_epoch=4), cpu, uses_scaler=False)
    job = Job(Train(epochs=2, iterations_per_epoch=4), batches, LOSSES["dice_ce"], cpu, torch.float32, 3, 0)
    save_checkpoint(folder / f"{name}_{rank}.pt", train(state, job), {})

def run(rank, world, epochs=4, accumulate=1, origin=None, name="", size=5, spoilt=-1):
    # One Dice over the batch, which needs the sums of all ranks; one part's Dice is not that of the whole.
    loss = partial(LOSSES["dice_ce"], batch_dice=accumulate == 1, dice_weight=float(size == 5))

    def batches(epoch, iterations):
        for iteration in range(iterations):
            source = torch.Generator().manual_seed(100 * epoch + iteration)
            image = torch.randn((size, 1, 6, 5, 4), generator=source)  # 3 and 2 samples, or all 5
            image[:, 0, 0, 0, 0] += math.nan if rank == spoilt else 0
            yield Batch(image[rank::world], (image[:, 0] > 0).long()[rank::world], (f"case of {rank}",))

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 3, 3), nn.LeakyReLU(), nn.ConvTranspose3d(3, 2, 3))
    settings = Train(epochs=4, iterations_per_epoch=4, learning_rate=0.05, accumulate=accumulate)
    state = start_state(network, settings, cpu, uses_scaler=False)
    if origin:
        load_checkpoint(origin, state, {})
    class Enough(Exception):
        pass
    def stop(state, numbers):
        if state.epoch == epochs:
            raise Enough
    try:
        train(state, Job(settings, batches, loss, cpu, torch.float32, 3, 0), [stop])
    except Enough:
        pass
    except ResourceError as error:
        (folder / f"{name}_{rank}.txt").write_text(error.message)
    save_checkpoint(folder / f"{name}_{rank}.pt", state, {})

def settle(rank):
    def batches(epoch, iterations):
        image = torch.randn((2, 1, 6, 5, 4), generator=torch.Generator().manual_seed(0))
        yield Batch(image, (image[:, 0] > 0).long(), ())

    torch.manual_seed(0)
    job = Job(Train(amp="bf16"), batches, LOSSES["dice_ce"], cpu, torch.float32, 3, 0)
    engine = settle_engine(folder, nn.Conv3d(1, 2, 3, padding=1), job)
    torch.save({"dtype": engine.dtype, "notes": list(engine.notes)}, folder / f"engine_{rank}.pt")

if os.environ["RANK"] == "0":
    run(0, 1, name="alone")
    run(0, 1, epochs=2, name="half")
    run(0, 1, size=4, name="even")
    run_norms(0, 1, name="norm")
with process_group(cpu) as share, process_group(cpu) as inner:
    assert inner == share  # and the inner end leaves the group open
    settle(share[0])
    run(*share, name="pair")
    run(*share, accumulate=2, size=4, name="parts")
    run(*share, origin=folder / "half_0.pt", name="joined")
    run(*share, spoilt=1, name="spoilt")
    run_norms(*share, name="norms")
"""
WORKER += """
    import torch.distributed as dist
    from medseg.workflows.start import settle_engine

    def summed(logits, label):
        value = loss_of(logits, label)
        dist.all_reduce(value)  # as losses of the whole batch do: a rank alone would wait for ever
        return value

    def loss_of(logits, label):
        return nn.functional.cross_entropy(logits.float(), label).clone()

    def one(epoch, iterations):
        yield Batch(torch.ones(1, 1, 6, 5, 4), torch.ones(1, 6, 5, 4).long(), ())

    job = Job(Train(amp="bf16"), one, summed, cpu, torch.float32, 3, 0)
    engine = settle_engine(folder, nn.Conv3d(1, 2, 3, padding=1), job)
    torch.save(engine.dtype, folder / f"dtype_{share[0]}.pt")

threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
(folder / f"threads_{share[0]}.txt").write_text(" ".join(threads))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    """What one process, and two together, have trained."""
    folder = tmp_path_factory.mktemp("ranks")
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", WORKER, str(folder)]
    started = [
        subprocess.Popen(command, env={**os.environ, **group, "RANK": rank}, stderr=subprocess.PIPE)
        for rank in "01"
    ]
    for process in started:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()
    return lambda name: (
        (folder / name).read_text() if name.endswith("txt") else torch.load(folder / f"{name}.pt")
    )


def losses(checkpoint: dict) -> list[float]:
    return [row["train/loss"] for row in checkpoint["history"]]


def test_two_processes_train_the_same_weights_as_one(ended: Callable[[str], dict]):
    alone, first, second = (ended(name)["average"] for name in ("alone_0", "pair_0", "pair_1"))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)


def test_two_processes_have_the_loss_curve_of_one(ended: Callable[[str], dict]):
    alone, pair = losses(ended("alone_0")), losses(ended("pair_1"))
    assert pair == pytest.approx(alone, abs=1e-4) and len(alone) == 4
    assert alone[3] < alone[0]  # a curve, not a line


def test_batch_norms_see_the_batches_of_both(ended: Callable[[str], dict]):
    alone, first, second = (ended(name) for name in ("norm_0", "norms_0", "norms_1"))
    assert losses(second) == pytest.approx(losses(alone), abs=1e-4)
    for name, value in alone["average"].items():
        torch.testing.assert_close(first["average"][name], value, rtol=1e-4, atol=1e-5)
    assert alone["average"].keys() == first["average"].keys()
    assert float(first["average"]["1.running_var"].max()) != 1


def test_batches_in_parts_on_two_processes_have_it_too(ended: Callable[[str], dict]):
    assert losses(ended("parts_0")) == pytest.approx(losses(ended("even_0")), abs=1e-4)


def test_a_case_that_spoils_the_loss_of_all_is_named_on_all(ended: Callable[[str], dict]):
    for rank in (0, 1):
        assert str(ended(f"spoilt_{rank}.txt")).endswith("with cases case of 1")


def test_two_processes_go_on_where_one_was(ended: Callable[[str], dict]):
    half, joined = losses(ended("half_0")), losses(ended("joined_1"))
    assert joined[:2] == half and joined == pytest.approx(losses(ended("alone_0")), abs=1e-4)


def test_both_take_the_precision_that_the_first_has_tried(ended: Callable[[str], dict]):
    assert ended("engine_0") == ended("engine_1") == {"dtype": "bfloat16", "notes": []}


def test_both_count_the_patches_of_both(ended: Callable[[str], dict]):
    assert torch.equal(ended("alone_0")["census"][-2:], torch.tensor([80, 80]))
    assert torch.equal(ended("pair_1")["census"], ended("pair_0")["census"])
    assert torch.equal(ended("pair_1")["census"][-2:], torch.tensor([80, 80]))


def test_no_thread_of_the_group_outlives_it(ended: Callable[[str], dict]):
    for rank in (0, 1):  # one that frees a tensor while Python ends aborts the process
        assert "gloo" not in str(ended(f"threads_{rank}.txt"))


def test_both_check_half_precision_together(ended: Callable[[str], dict]):
    assert ended("dtype_0") == ended("dtype_1") == "bfloat16"


def test_a_gpu_of_ones_own_and_both_backends(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    said: list[object] = []
    monkeypatch.setattr("torch.cuda.set_device", said.append)
    monkeypatch.setattr("torch.distributed.init_process_group", said.append)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: said.append("ended"))
    with process_group(torch.device("cuda")) as share:
        assert share == (1, 2)
    assert said == [1, "cpu:gloo,cuda:nccl", "ended"]


def test_without_torchrun_there_is_one_rank(monkeypatch: pytest.MonkeyPatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with process_group(torch.device("cpu")) as share:
        assert share == (0, 1)
    assert is_main_process()


def test_only_rank_0_writes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()


def test_alone_gradients_stay_as_they_are_and_values_are_ones_own():
    network = torch.nn.Linear(2, 1)
    network(torch.ones(1, 2)).backward()
    before = network.weight.grad.clone()
    assert float(average_step(network, torch.tensor(3.0))) == 3
    assert torch.equal(network.weight.grad, before)
    assert agree("mine") == "mine" and gather("mine") == ["mine"]
