from collections.abc import Callable

import pytest
import torch
from torch import nn

from medseg.core.errors import ConfigError
from medseg.models import MODELS, Grid
from medseg.train.encoder import find_encoder, slow_encoder
from medseg.train.loop import Job, train
from medseg.train.optimizers import OPTIMIZERS
from medseg.train.settings import Train
from medseg.train.state import start_state
from tests.train.conftest import CPU

MakeJob = Callable[..., Job]
GRID = Grid(
    dims=2,
    patch=(16, 16),
    spacing_mm=(1.0, 2.0),
    strides=((1, 1), (2, 2), (2, 2), (2, 2)),
    kernels=((3, 3),) * 4,
)


class Net(nn.Module):
    """An encoder with running statistics, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3))
        self.head = nn.Conv3d(3, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(image))


@pytest.mark.parametrize("name", MODELS)
def test_the_encoder_of_a_network_is_the_way_down(name: str):
    network = MODELS[name](1, 2, GRID, size="nano")
    found = find_encoder(network)
    names = [name for name, _ in network.named_parameters()]
    assert 0.2 * len(names) < len(found) < 0.9 * len(names)  # SegFormer's head is small
    image = torch.randn(1, 1, *GRID.patch)
    for module_name, module in network.named_modules():
        module.register_forward_pre_hook(lambda m, i, n=module_name: order.append(n))
    order: list[str] = []
    network.eval()(image)
    reached = [n for n in order if any(p.rpartition(".")[0] == n for p in names)]
    inside = [n for n in reached if any(p.rpartition(".")[0] == n for p in found)]
    assert reached[: len(inside)] == inside  # what comes first, and nothing after


def test_a_frozen_encoder_learns_nothing_and_then_it_does(make_job: MakeJob):
    torch.manual_seed(0)
    state = start_state(Net(), Train(), CPU, uses_scaler=False)
    kept = {name: value.clone() for name, value in state.network.state_dict().items()}
    seen = []

    def note(state, numbers) -> None:
        now = state.network.state_dict()
        seen.append({name: torch.equal(kept[name], now[name]) for name in kept})

    train(state, make_job(epochs=3, freeze_epochs=2), [note])
    assert all(same for name, same in seen[1].items() if name.startswith("encoder"))
    assert not seen[0]["head.weight"]
    assert not seen[2]["encoder.0.weight"] and not seen[2]["encoder.1.running_mean"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_encoder_has_its_share_of_the_rate(name: str):
    network = Net()
    optimizer = OPTIMIZERS[name](network, (1, 2), 0.1, 0.01)
    slow_encoder(optimizer, network, 0.1)
    shares = {id(p): g.get("share", 1.0) for g in optimizer.param_groups for p in g["params"]}
    assert {n: shares[id(p)] for n, p in network.named_parameters()} == {
        n: 0.1 if n.startswith("encoder") else 1.0 for n, _ in network.named_parameters()
    }


def test_a_slow_encoder_follows_the_schedule_at_its_share(make_job: MakeJob):
    state = start_state(Net(), Train(encoder_rate=0.5), CPU, uses_scaler=False)
    train(state, make_job(epochs=1, encoder_rate=0.5))
    slow, fast = (
        {g["lr"] for g in state.optimizer.param_groups if g.get("share", 1.0) == s} for s in (0.5, 1.0)
    )
    assert len(slow) == len(fast) == 1 and slow.pop() == pytest.approx(fast.pop() / 2)


def test_a_network_that_names_no_encoder_is_refused():
    with pytest.raises(ConfigError) as caught:
        start_state(nn.Conv3d(1, 2, 3), Train(encoder_rate=0.5), CPU, uses_scaler=False)
    assert caught.value.code == "ENCODER_UNKNOWN"
