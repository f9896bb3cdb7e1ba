"""The same step with less memory: batches in parts, and activations computed twice."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from medseg.models import MODELS, Grid
from medseg.train.loop import Job, train, train_step
from medseg.train.memory import checkpoint_blocks, find_blocks
from medseg.train.settings import Train
from medseg.train.state import start_state
from tests.train.conftest import CPU, batches

MakeJob = Callable[..., Job]


class Pair(nn.Sequential):
    """Two convolutions, batch norm and dropout."""

    def __init__(self, inner: int, outer: int) -> None:
        layers = (
            nn.Conv3d(inner, outer, 3, padding=1),
            nn.BatchNorm3d(outer),
            nn.Dropout3d(0.3),
            nn.LeakyReLU(),
        )
        super().__init__(*layers, nn.Conv3d(outer, outer, 3, padding=1))


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Pair(1, 4), nn.ModuleList([Pair(4, 4)])[0], nn.Conv3d(4, 2, 1))


def gradients(network: nn.Module, job: Job) -> list[torch.Tensor]:
    state = start_state(network, job.settings, CPU, uses_scaler=False)
    torch.manual_seed(1)
    train_step(state, job, next(batches(0, 1)))
    return [parameter.grad for parameter in network.parameters()]


def test_blocks_are_the_smallest_modules_with_two_convolutions():
    network = make_network()
    assert find_blocks(network) == [network[0], network[1]]


def test_a_list_of_layers_is_no_block_and_one_layer_has_none():
    assert find_blocks(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])) == []
    assert find_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == []


def test_checkpointed_blocks_give_equal_gradients_and_statistics(make_job: MakeJob):
    plain = make_network()
    light = copy.deepcopy(plain)
    assert checkpoint_blocks(light) == 2
    expected, found = (gradients(network, make_job()) for network in (plain, light))
    assert all(torch.equal(a, b) for a, b in zip(expected, found))
    own, other = plain.state_dict(), light.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in own.items())


def test_a_block_is_computed_twice_while_training_and_once_otherwise():
    network, calls = make_network(), []
    network[0][0].register_forward_hook(lambda *_: calls.append(1))
    checkpoint_blocks(network)
    image = torch.randn(2, 1, 6, 5, 4)
    network(image).sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        network(image)
    network.eval()(image)
    assert len(calls) == 4


def test_a_copy_of_a_checkpointed_network_has_blocks_of_its_own():
    network = make_network()
    checkpoint_blocks(network)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert network.eval()(torch.ones(1, 1, 4, 4, 4)).abs().sum() == 0
    assert twin.eval()(torch.ones(1, 1, 4, 4, 4)).abs().sum() > 0


@pytest.mark.parametrize("parts", [2, 5])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(make_job: MakeJob, parts: int):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(3, 2, 1))
    expected = gradients(copy.deepcopy(network), make_job(clip_norm=1e9))
    found = gradients(network, make_job(clip_norm=1e9, accumulate=parts))
    for a, b in zip(expected, found):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_batch_in_parts_trains_alike(make_job: MakeJob):
    def history(parts: int) -> list[float]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(3, 2, 1))
        state = start_state(network, Train(), CPU, uses_scaler=False)
        rows = train(state, make_job(accumulate=parts)).history
        return [row["train/loss"] for row in rows]

    assert history(2) == pytest.approx(history(1), abs=1e-5)


GRID = Grid(2, (16, 16), (1.0, 2.0), ((1, 1), *[(2, 2)] * 3), ((3, 3),) * 4)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_has_the_same_gradients_with_activations_computed_twice(name: str):
    torch.manual_seed(0)
    plain = MODELS[name](1, 2, GRID, size="nano")
    twice = copy.deepcopy(plain)
    assert checkpoint_blocks(twice) > 1
    image = torch.randn(2, 1, *GRID.patch)
    for network in (plain, twice):
        torch.manual_seed(1)
        outputs = network.train()(image)
        sum(o.square().mean() for o in (outputs if isinstance(outputs, list) else [outputs])).backward()
    for one, other in zip(plain.parameters(), twice.parameters()):
        assert torch.equal(one.grad, other.grad)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), twice.state_dict().values()))


def test_blocks_without_running_statistics_can_be_compiled():
    torch.manual_seed(0)
    layers = (nn.Conv3d(1, 2, 3, padding=1), nn.InstanceNorm3d(2, affine=True), nn.Conv3d(2, 2, 1))
    plain = nn.Sequential(*layers)
    light = copy.deepcopy(plain)
    assert checkpoint_blocks(light) == 1
    light.compile(backend="aot_eager", dynamic=False)
    image = next(batches(0, 1)).image
    for network in (plain, light):
        network(image).square().mean().backward()
    for one, other in zip(plain.parameters(), light.parameters()):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6)
