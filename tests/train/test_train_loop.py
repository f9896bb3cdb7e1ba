import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from medseg.core.errors import ResourceError
from medseg.data.loader import Batch
from medseg.train.loop import Job, averaged, rate_cases, train
from medseg.train.settings import Train
from medseg.train.state import TrainState, start_state
from tests.train.conftest import CPU, batches

MakeState = Callable[..., TrainState]
MakeJob = Callable[..., Job]


class Scale(nn.Module):
    """One weight: the output is weight x image, so that steps can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0]]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.weight * image


def ones(epoch: int, iterations: int):
    for _ in range(iterations):
        yield Batch(torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 2, 2, 2).long(), ("a",))


def mean(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The gradient with respect to the weight is 1."""
    return output.mean()


def weight_of(state: TrainState) -> float:
    return float(state.network.state_dict()["weight"])


SGD = {"optimizer": "sgd", "weight_decay": 0.0, "learning_rate": 0.5, "warmup_share": 0.0, "schedule": "poly"}


def test_one_step_of_sgd_is_the_hand_computed_one(make_job: MakeJob):
    state = start_state(Scale(), Train(**SGD), CPU, uses_scaler=False)
    train(state, make_job(**SGD, batches=ones, loss=mean, epochs=1, iterations_per_epoch=1))
    # Nesterov: the first step is rate x (gradient + 0.99 x gradient)
    assert weight_of(state) == pytest.approx(2 - 0.5 * 1.99)


def test_the_rate_follows_the_schedule_over_all_iterations(make_job: MakeJob):
    state = start_state(Scale(), Train(**SGD), CPU, uses_scaler=False)
    seen = []

    def loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        seen.append(state.optimizer.param_groups[0]["lr"])
        return output.mean()

    train(state, make_job(**SGD, batches=ones, loss=loss, epochs=2, iterations_per_epoch=2))
    assert seen == pytest.approx([0.5 * share**0.9 for share in (1, 0.75, 0.5, 0.25)])


def test_gradients_are_clipped_to_the_norm(make_job: MakeJob):
    state = start_state(Scale(), Train(**SGD), CPU, uses_scaler=False)
    settings = SGD | {"clip_norm": 0.1}
    train(state, make_job(**settings, batches=ones, loss=mean, epochs=1, iterations_per_epoch=1))
    assert weight_of(state) == pytest.approx(2 - 0.5 * 1.99 * 0.1, rel=1e-4)


def test_the_average_of_the_weights_is_the_hand_computed_one(make_job: MakeJob):
    settings = SGD | {"ema_decay": 0.9}
    state = start_state(Scale(), Train(**settings), CPU, uses_scaler=False)
    weights = [weight_of(state)]

    def loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        weights.append(weight_of(state))
        return output.mean()

    train(state, make_job(**settings, batches=ones, loss=loss, epochs=1, iterations_per_epoch=2))
    after_first, after_second = weights[2], weight_of(state)
    expected = 0.9 * (0.9 * 2 + 0.1 * after_first) + 0.1 * after_second
    assert float(state.average["weight"]) == pytest.approx(expected)


def test_without_decay_the_average_is_the_weights(make_state: MakeState, make_job: MakeJob):
    state = train(make_state(), make_job(ema_decay=0.0))
    assert all(torch.equal(state.average[name], value) for name, value in state.network.state_dict().items())


def test_whole_numbers_are_copied_into_the_average(make_state: MakeState, make_job: MakeJob):
    state = train(make_state(), make_job(epochs=2, iterations_per_epoch=3, ema_decay=0.99))
    assert int(state.average["1.num_batches_tracked"]) == 6


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training(make_state: MakeState, make_job: MakeJob, value: float):
    with pytest.raises(ResourceError) as caught:
        train(make_state(), make_job(loss=lambda logits, label: logits.mean() * value))
    assert caught.value.code == "LOSS_NOT_FINITE" and "epoch 1" in caught.value.message


def test_training_stops_when_the_score_no_longer_rises(make_state: MakeState, make_job: MakeJob):
    scores = iter([0.5, 0.7, 0.7, 0.6, 0.9])
    job = make_job(epochs=5, early_stop_epochs=2, validate=lambda network: {"dice": next(scores)})
    state = train(make_state(), job)
    assert (state.epoch, state.is_stopped, state.best_epoch, state.best_dice) == (4, True, 2, 0.7)


def test_a_stopped_training_stays_stopped(make_state: MakeState, make_job: MakeJob):
    state = make_state()
    state.is_stopped = True
    assert train(state, make_job()).epoch == 0


def test_without_the_setting_nothing_stops_early(make_state: MakeState, make_job: MakeJob):
    state = train(make_state(), make_job(epochs=4, validate=lambda network: {"dice": 0.1}))
    assert state.epoch == 4 and not state.is_stopped


def test_scores_are_taken_at_the_asked_epochs_and_at_the_end(make_state: MakeState, make_job: MakeJob):
    job = make_job(epochs=5, validate_every=2, validate=lambda network: {"dice": 0.5, "dice_liver": 0.4})
    history = train(make_state(), job).history
    assert [row["epoch"] for row in history if "val/dice" in row] == [2, 4, 5]
    assert history[1]["val/dice_liver"] == 0.4


def test_validation_sees_the_averaged_weights_in_eval_mode_and_leaves_no_trace(
    make_state: MakeState, make_job: MakeJob
):
    state = make_state()

    def validate(network: nn.Module) -> dict[str, float]:
        assert not network.training
        assert all(torch.equal(state.average[key], value) for key, value in network.state_dict().items())
        return {"dice": 0.5}

    validated = train(state, make_job(validate=validate))
    assert validated.network.training
    plain = train(make_state(), make_job())
    pairs = zip(validated.network.state_dict().values(), plain.network.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_weights_come_back_even_if_scoring_fails(make_state: MakeState):
    state = make_state()
    state.average["3.bias"].fill_(7)
    with pytest.raises(ZeroDivisionError), averaged(state):
        assert float(state.network.state_dict()["3.bias"][0]) == 7
        raise ZeroDivisionError
    assert float(state.network.state_dict()["3.bias"][0]) != 7 and state.network.training


def test_observers_see_every_epoch_after_it_is_done(make_state: MakeState, make_job: MakeJob):
    seen = []
    train(
        make_state(),
        make_job(epochs=3),
        [lambda state, numbers: seen.append((state.epoch, len(state.history)))],
    )
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_a_2d_network_gets_no_flat_axis(make_job: MakeJob):
    seen = []

    def flat(epoch: int, iterations: int):
        yield Batch(torch.zeros(2, 1, 6, 5, 1), torch.zeros(2, 6, 5, 1).long(), ("a", "b"))

    network = nn.Conv2d(1, 2, 1)
    network.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    state = start_state(network, Train(), CPU, uses_scaler=False)
    train(state, make_job(dims=2, batches=flat, epochs=1, iterations_per_epoch=1))
    assert seen == [(2, 1, 6, 5)]


def test_another_seed_is_another_training(make_state: MakeState, make_job: MakeJob):
    weights = [
        train(make_state(), make_job(seed=seed)).network.state_dict()["3.weight"] for seed in (0, 1, 0)
    ]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])


def test_the_loss_falls(make_state: MakeState, make_job: MakeJob):
    job = make_job(epochs=6, iterations_per_epoch=10, learning_rate=0.05)
    history = train(make_state(), job).history
    assert history[-1]["train/loss"] < 0.7 * history[0]["train/loss"]


def test_batches_are_asked_for_by_epoch(make_state: MakeState, make_job: MakeJob):
    asked = []

    def note(epoch: int, iterations: int):
        asked.append((epoch, iterations))
        return batches(epoch, iterations)

    train(make_state(), make_job(batches=note, epochs=2))
    assert asked == [(0, 3), (1, 3)]


def test_cases_are_rated_by_the_loss_of_their_own_samples():
    scores: dict[str, float] = {"a": 0.5}
    rate_cases(scores, [("a", "b"), ("b",)], [[0.1, 0.7], [0.4]])
    assert scores == pytest.approx({"a": 0.8 * 0.5 + 0.2 * 0.9, "b": 0.8 * 0.3 + 0.2 * 0.6})


def test_cases_of_two_ranks_are_rated_in_the_order_of_one(monkeypatch):
    ranks = [[[("a", 0.1), ("c", 0.3)]], [[("b", 0.2), ("a", 0.9)]]]
    monkeypatch.setattr("medseg.train.loop.gather", lambda own: ranks)
    scores: dict[str, float] = {}
    rate_cases(scores, [("a", "c")], [[0.1, 0.3]])
    assert scores == pytest.approx({"a": 0.8 * 0.9 + 0.2 * 0.1, "b": 0.8, "c": 0.7})


def test_an_easy_case_beside_a_hard_one_is_rated_easy(make_state, make_job):
    def pair(epoch: int, iterations: int):
        image, label = torch.zeros(2, 1, 6, 5, 4), torch.zeros(2, 6, 5, 4, dtype=torch.int64)
        image[0], image[1] = 1, -1
        label[1] = 1
        yield Batch(image, label, ("easy", "hard"))

    def loss(logits, label):  # by what the label is: 0.2 and 0.8 by themselves, 0.5 together
        return 0 * logits.mean() + 0.2 + 0.6 * label.float().mean()

    state = train(make_state(), make_job(batches=pair, loss=loss, case_scores={}, epochs=1, accumulate=1))
    assert state.case_scores == pytest.approx({"easy": 0.8, "hard": 0.2})
    parts = train(make_state(), make_job(batches=pair, loss=loss, case_scores={}, epochs=1, accumulate=2))
    assert parts.case_scores == pytest.approx({"easy": 0.8, "hard": 0.2})


def test_scores_of_cases_are_kept_where_batches_are_drawn_by_them(make_state, make_job):
    state = train(make_state(), make_job(case_scores={}, epochs=1))
    assert set(state.case_scores) == {"case-0", "case-1", "case-2", "other"}


def test_after_an_early_stop_the_best_weights_leave(make_state, make_job):
    scores = iter([0.5, 0.9, 0.8, 0.7])
    job = make_job(epochs=9, early_stop_epochs=2, validate=lambda network: {"dice": next(scores)})
    state = train(make_state(), job)
    assert state.best_epoch == 2 and state.final is state.best
    assert not torch.equal(state.best["0.weight"], state.average["0.weight"])


def test_without_an_early_stop_the_last_average_leaves(make_state, make_job):
    state = train(make_state(), make_job(epochs=2, validate=lambda network: {"dice": 1.0}))
    assert state.final is state.average
