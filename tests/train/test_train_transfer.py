from collections.abc import Callable

import pytest
import torch
from torch import nn

from medseg.core.errors import CheckpointError
from medseg.models import MODELS, Grid
from medseg.train.transfer import Ends, Moved, summarize
from medseg.train.transfer import transfer as bring_over

OLD = Ends(("ct",), ("background", "organ", "tumour"))


def make(ends: Ends, kernel: int = 3, width: int = 5) -> nn.Sequential:
    """Stem, two hidden layers, and an upsampling that ends in classes, as MONAI's UNet does, and a head."""
    channels, classes = len(ends.channels), len(ends.classes)
    return nn.Sequential(
        nn.Conv3d(channels, width, 3),
        nn.InstanceNorm3d(width, affine=True),
        nn.Conv3d(width, width, kernel),
        nn.Conv3d(width, 7, 3),
        nn.ConvTranspose3d(7, classes, 2, 2),
        nn.InstanceNorm3d(classes, affine=True),
        nn.Conv3d(classes, classes, 1),
    )


def transfer(source: nn.Module, target: nn.Module, old: Ends, new: Ends) -> list[Moved]:
    return bring_over(source, target, old, new, lambda *counts: make(Ends(*(("x",) * n for n in counts))))


def fill(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter) + 1.0)
    return network


def how(moved: list) -> dict[str, str]:
    return {entry.weight: entry.how for entry in moved}


def test_a_model_for_the_same_task_is_copied_whole():
    source, target = fill(make(OLD)), make(OLD)
    moved = transfer(source, target, OLD, OLD)
    assert set(how(moved).values()) == {"copied"} and summarize(moved) == "14 copied, 0 adapted, 0 fresh"
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters()))


def test_a_known_channel_keeps_its_kernel_and_a_new_one_gets_the_mean_at_equal_sum():
    new = Ends(("pet", "ct"), OLD.classes)
    source, target = fill(make(OLD)), make(new)
    moved = transfer(source, target, OLD, new)
    assert how(moved)["0.weight"] == "adapted" and how(moved)["2.weight"] == "copied"
    for channel in (0, 1):  # the mean of one is itself; half of each gives the old sum
        assert torch.equal(target[0].weight[:, channel], source[0].weight[:, 0] / 2)


def test_fewer_channels_are_taken_by_name_and_scaled_up():
    old, new = Ends(("t1", "t2"), OLD.classes), Ends(("t2",), OLD.classes)
    source, target = fill(make(old)), make(new)
    transfer(source, target, old, new)
    assert torch.equal(target[0].weight[:, 0], source[0].weight[:, 1] * 2)


def test_swapped_channels_follow_their_names():
    old, new = Ends(("t1", "t2"), OLD.classes), Ends(("t2", "t1"), OLD.classes)
    source, target = fill(make(old)), make(new)
    transfer(source, target, old, new)
    assert torch.equal(target[0].weight, source[0].weight.flip(1))


def test_renamed_channels_keep_their_order():
    new = Ends(("mr",), OLD.classes)
    source, target = fill(make(OLD)), make(new)
    moved = transfer(source, target, OLD, new)
    assert torch.equal(target[0].weight, source[0].weight)
    assert "channels of other names" in summarize(moved)


def test_rows_of_known_classes_are_carried_over_and_others_stay_fresh():
    new = Ends(("ct",), ("background", "vessel", "tumour", "cyst"))
    source, target = fill(make(OLD)), make(new)
    fresh = [parameter.detach().clone() for parameter in target.parameters()]
    head, bias = target[6].weight.detach().clone(), target[6].bias.detach().clone()
    moved = transfer(source, target, OLD, new)
    assert len(fresh) == 14 and how(moved)["6.weight"] == how(moved)["6.bias"] == "adapted"
    pairs = {0: 0, 2: 2}  # new -> old
    for row in range(4):
        expected = source[6].bias[pairs[row]] if row in pairs else bias[row]
        assert target[6].bias[row] == expected
        for column in range(4):
            known = row in pairs and column in pairs
            wanted = source[6].weight[pairs[row], pairs[column]] if known else head[row, column]
            assert torch.equal(target[6].weight[row, column], wanted)
    assert torch.equal(target[4].weight[:, [0, 2]], source[4].weight[:, [0, 2]])  # transposed: outputs second
    assert torch.equal(target[5].weight[[0, 2]], source[5].weight[[0, 2]])
    assert "classes background, tumour by name, 2 of 4 fresh" in summarize(moved)


def test_regions_that_share_no_name_with_the_classes_start_afresh():
    new = Ends(("ct",), ("whole", "core"))  # a head of sigmoids has no background
    source, target = fill(make(OLD)), make(new)
    head = target[6].weight.detach().clone()
    moved = transfer(source, target, OLD, new)
    assert torch.equal(target[6].weight, head) and torch.equal(target[3].weight, source[3].weight)
    assert "2 of 2 fresh" in summarize(moved)


def test_equally_many_classes_of_other_names_are_not_confused():
    new = Ends(("ct",), ("background", "tumour", "organ"))
    source, target = fill(make(OLD)), make(new)
    transfer(source, target, OLD, new)
    assert torch.equal(target[6].bias, source[6].bias[[0, 2, 1]])


def test_a_kernel_of_another_shape_stays_fresh_and_is_listed():
    source, target = fill(make(OLD)), make(OLD, kernel=1)
    before = target[2].weight.detach().clone()
    moved = transfer(source, target, OLD, OLD)
    assert torch.equal(target[2].weight, before)
    assert "fresh    2.weight: shapes 5x5x3x3x3 and 5x5x1x1x1 differ" in summarize(moved)


def test_a_weight_that_the_model_lacks_stays_fresh():
    target = nn.Sequential(*make(OLD), nn.Conv3d(3, 3, 1))
    assert how(transfer(fill(make(OLD)), target, OLD, OLD))["7.weight"] == "fresh"


@pytest.mark.parametrize("other", [lambda: make(OLD, width=9), lambda: nn.Linear(4, 4)])
def test_another_network_is_refused_and_nothing_changes(other: Callable[[], nn.Module]):
    target = make(OLD)
    before = [parameter.detach().clone() for parameter in target.parameters()]
    with pytest.raises(CheckpointError) as caught:
        transfer(other(), target, OLD, OLD)
    assert caught.value.code == "MODEL_MISFIT"
    assert all(torch.equal(a, b) for a, b in zip(before, target.parameters()))


def test_rows_of_a_linear_head_are_carried_over_too():
    def build(channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, classes))

    source, target = build(1, 3), build(1, 2)
    bring_over(source, target, OLD, Ends(("ct",), ("background", "tumour")), build)
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].weight, source[1].weight[[0, 2]])


def numbered(count: int) -> Ends:
    return Ends(("ct",), tuple(map(str, range(count))))


@pytest.mark.parametrize(
    ("name", "old", "new"), [("light_unet", 3, 8), ("light_unet", 8, 9), ("unet", 3, 16)]
)
def test_a_hidden_layer_as_wide_as_there_are_classes_is_copied(name: str, old: int, new: int):
    grid = Grid(2, (16, 16), (1, 1), ((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3)
    source, target = (MODELS[name](1, count, grid, features=(8, 16, 32)) for count in (old, new))
    moved = bring_over(
        source, target, numbered(old), numbered(new), lambda *n: MODELS[name](*n, grid, features=(8, 16, 32))
    )
    heads = {entry.weight.rpartition(".")[0] for entry in moved if entry.how != "copied"}
    assert all("head" in name for name in heads) and heads
    assert "fresh" not in how(moved).values()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "swin_unetr"])
def test_a_second_channel_changes_the_first_layer_of_every_network_and_no_other(name: str):
    grid = Grid(2, (32, 32), (1, 1), ((1, 1), *[(2, 2)] * 3), ((3, 3),) * 4)
    source, target = (MODELS[name](count, 3, grid, size="nano") for count in (1, 2))
    new = Ends(("t1", "t2"), OLD.classes)
    moved = bring_over(
        source, target, Ends(("t1",), OLD.classes), new, lambda *n: MODELS[name](*n, grid, size="nano")
    )
    assert "fresh" not in how(moved).values() and "adapted" in how(moved).values()
    assert all(entry.why.startswith("channels") for entry in moved if entry.how == "adapted")
