import math

import pytest
import torch
from torch import nn

from medseg.core.errors import ConfigError
from medseg.models import MODELS, Grid
from medseg.train.optimizers import OPTIMIZERS, QUINTIC, Muon, find_hidden, orthogonalize
from medseg.train.settings import Train
from medseg.train.state import start_state
from tests.train.conftest import CPU


def make_network() -> nn.Sequential:
    """Stem 1 -> 4, hidden 4 -> 6, depthwise 6, up 6 -> 5, norm, head 5 -> 2."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1),
        nn.Conv3d(4, 6, 3, padding=1),
        nn.Conv3d(6, 6, 3, padding=1, groups=6),
        nn.ConvTranspose3d(6, 5, (2, 2, 1), (2, 2, 1)),
        nn.InstanceNorm3d(5, affine=True),
        nn.Conv3d(5, 2, 1),
    )


def build(name: str, network: nn.Module, rate: float = 0.01, decay: float = 0.1, **options: object):
    return OPTIMIZERS[name](network, (1, 2), rate, decay, **options)


def loss_of(network: nn.Module) -> float:
    image = torch.randn((2, 1, 6, 5, 4), generator=torch.Generator().manual_seed(0))
    return float((network(image) ** 2).mean().detach())


def step(network: nn.Module, optimizer: torch.optim.Optimizer, count: int = 1) -> None:
    for seed in range(count):
        image = torch.randn((2, 1, 6, 5, 4), generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        (network(image) ** 2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_in_one_group_and_norms_and_biases_are_not_decayed(name: str):
    network = make_network()
    groups = build(name, network).param_groups
    listed = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, listed)) == sorted(map(id, network.parameters()))
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.1}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_make_the_loss_fall(name: str):
    network = make_network()
    before = loss_of(network)
    step(network, build(name, network), count=5)
    assert loss_of(network) < 0.8 * before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_frozen_parameter_stays_as_it_is(name: str):
    network = make_network()
    network[1].weight.requires_grad_(False)
    before = network[1].weight.clone()
    step(network, build(name, network))
    assert torch.equal(network[1].weight, before)


def test_muon_takes_dense_hidden_kernels_only():
    network = make_network()
    assert [id(p) for p in find_hidden(network, (1, 2))] == [id(network[1].weight), id(network[3].weight)]


def test_linear_layers_are_hidden_by_their_ends():
    first, hidden, last = nn.Linear(1, 8), nn.Linear(8, 8), nn.Linear(8, 2)
    assert [id(p) for p in find_hidden(nn.Sequential(first, hidden, last), (1, 2))] == [id(hidden.weight)]


def test_a_network_without_hidden_weights_is_adamws_alone():
    network = nn.Conv3d(1, 2, 3)
    assert not any(group["is_muon"] for group in build("muon", network).param_groups)


def test_shared_weights_are_listed_once():
    layer = nn.Linear(8, 8)
    twin = nn.Linear(8, 8)
    twin.weight = layer.weight
    assert len(find_hidden(nn.Sequential(layer, twin), (1, 2))) == 1


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (6, 6)])
def test_all_singular_values_come_near_one(shape: tuple[int, int]):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert values.min() > 0.65 and values.max() < 1.25


def test_the_gram_form_is_newton_schulz():
    x = torch.randn((12, 50), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = orthogonalize(x.float())
    a, b, c = QUINTIC
    x /= x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    torch.testing.assert_close(found.double(), x, rtol=0, atol=1e-5)


def test_a_gradient_of_zeros_moves_nothing():
    assert not orthogonalize(torch.zeros(3, 5)).any()


def test_muons_update_has_the_size_of_adamws():
    network = make_network()
    before = network[1].weight.detach().clone()
    step(network, build("muon", network, rate=0.01, decay=0.0))
    change = (network[1].weight.detach() - before).square().mean().sqrt()
    assert 0.2 * 0.01 * 0.6 < float(change) < 0.2 * 0.01 * 1.3


def test_a_muon_step_is_the_hand_computed_one():
    weight = nn.Parameter(torch.tensor([[3.0, 0.0]]))
    optimizer = Muon([{"params": [weight], "is_muon": True}], lr=0.1, weight_decay=0.5)
    weight.grad = torch.tensor([[0.0, 7.0]])
    optimizer.step()
    value = 1.0  # the one singular value through five quintic steps
    for _ in range(5):
        value = QUINTIC[0] * value + QUINTIC[1] * value**3 + QUINTIC[2] * value**5
    expected = torch.tensor([[3 * (1 - 0.1 * 0.5), -0.1 * 0.2 * math.sqrt(2) * value]])
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
def test_it_follows_torchs_muon_up_to_bfloat16():
    start = torch.randn((16, 24), generator=torch.Generator().manual_seed(3))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    group = [{"params": [ours], "is_muon": True}]
    own = Muon(group, lr=0.01, weight_decay=0.1)
    peer = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for seed in range(4):
        gradient = torch.randn((16, 24), generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        own.step()
        peer.step()
    moved = (theirs - start).norm()
    assert float((ours - theirs).detach().norm()) < 0.02 * float(moved.detach())


def test_its_other_group_is_torchs_adamw():
    start = torch.randn(7, generator=torch.Generator().manual_seed(4))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    own = Muon([{"params": [ours]}], lr=0.01, weight_decay=0.1)
    peer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    for seed in range(4):
        ours.grad = torch.randn(7, generator=torch.Generator().manual_seed(seed))
        theirs.grad = ours.grad.clone()
        own.step()
        peer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_adamws_weights_have_their_own_share_of_the_rate():
    groups = build("muon", make_network(), adamw_share=0.3).param_groups
    assert [group.get("share", 1.0) for group in groups] == [1.0, 0.3, 0.3]


@pytest.mark.parametrize(
    ("settings", "hint"),
    [({"optimizer": "muonn"}, "muon"), ({"optimizer_options": {"momentun": 0.9}}, "known: beta1")],
)
def test_an_unknown_name_or_option_is_refused(settings: dict, hint: str):
    with pytest.raises(ConfigError) as caught:
        start_state(make_network(), Train(**settings), CPU, uses_scaler=False)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", MODELS)
def test_most_of_every_network_is_muons_and_none_of_its_ends(name: str):
    grid = Grid(2, (16, 16), (1.0, 2.0), ((1, 1), *[(2, 2)] * 3), ((3, 3),) * 4)
    network = MODELS[name](2, 3, grid, size="nano")
    hidden = find_hidden(network, (2, 3))
    assert sum(p.numel() for p in hidden) > 0.5 * sum(p.numel() for p in network.parameters())
    assert all(len(p) != 3 and p.shape[1] != 2 for p in hidden if p.ndim == 4)
