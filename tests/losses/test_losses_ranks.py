"""Two gloo processes, each with a share of the batch, give the loss and gradient of one with the whole."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from medseg.losses import LOSSES
from medseg.losses.ranks import divide_sums, sum_ranks

# Five samples: three for rank 0, two for rank 1, of which one is ignored whole and one in half.
WORKER = """
import inspect, json, os, sys
import torch
import torch.distributed as dist
from medseg.losses import LOSSES, deep_supervised, per_region
from functools import partial

torch.set_num_threads(1)
source = torch.Generator().manual_seed(0)
logits = torch.randn(5, 3, 6, 5, generator=source, dtype=torch.float64)
label = torch.randint(0, 3, (5, 6, 5), generator=source)
label[1] = 255
label[3, :3] = 255
label[2, 0] = 255

cases = {}
for name, loss in LOSSES.items():
    cases[name] = partial(loss, class_weights=[1, 2, 3])
    if "batch_dice" in inspect.signature(loss).parameters:
        cases[f"{name} batch_dice"] = partial(loss, batch_dice=True)
cases["regions"] = lambda z, y: per_region(LOSSES["bce_dice"], [(1, 2), (2,)])(z[:, 1:], y)
cases["levels"] = lambda z, y: deep_supervised(LOSSES["dice_focal"])([z, z[:, :, ::2, ::2]], y)

def run(loss, share):
    leaf = logits[share].clone().requires_grad_()
    value = loss(leaf, label[share])
    return value.item(), torch.autograd.grad(value, leaf)[0]

whole = {name: run(loss, slice(None)) for name, loss in cases.items()}
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
share = slice(rank, None, world)
apart = {}
for name, loss in cases.items():
    value, gradient = run(loss, share)
    expected, expected_gradient = whole[name]
    off = (gradient / world - expected_gradient[share]).abs().max() / expected_gradient.abs().max()
    apart[name] = [abs(value / expected - 1), off.item()]
from medseg.losses.ranks import alone
if rank == 0:  # the other rank does not take part, and nobody waits
    with alone():
        value, _ = run(cases["dice_ce"], slice(None))
    apart["alone"] = [abs(value / whole["dice_ce"][0] - 1), 0.0]
dist.destroy_process_group()
with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
    json.dump(apart, file)
"""
NAMES = [*LOSSES, *(f"{name} batch_dice" for name in LOSSES if name not in {"focal", "cross_entropy"})]


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[float]]]:
    """Relative differences of value and gradient from those of one process, per rank and loss."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder)],
            env={**os.environ, **group, "RANK": rank},
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    for process in started:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in "01"]


@pytest.mark.parametrize("name", [*NAMES, "regions", "levels"])
def test_ranks_train_as_one_process_would(name: str, apart: list[dict[str, list[float]]]):
    for found in apart:
        assert max(found[name]) < 1e-12


def test_what_a_rank_tries_alone_is_its_own(apart: list[dict[str, list[float]]]):
    assert apart[0]["alone"] == [0.0, 0.0]


def test_alone_a_sum_is_itself():
    local = torch.ones(2)
    assert sum_ranks(local) is local


def test_sum_over_a_group_of_one_has_the_value_and_the_gradient_of_its_part():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        local = torch.tensor([2.0, 3.0], requires_grad=True)
        total = sum_ranks(local)
        total.prod().backward()
    finally:
        dist.destroy_process_group()
    assert total.tolist() == [2, 3] and local.grad.tolist() == [3, 2]


def test_nothing_counted_is_0():
    assert divide_sums(torch.tensor([0.0, 4.0]), torch.tensor([0, 2])).tolist() == [0, 2]
