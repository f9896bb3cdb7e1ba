"""Each fault is planted in a training and must be named."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medseg.core.errors import ResourceError
from medseg.core.volume import IGNORED
from medseg.data.loader import Batch
from medseg.train.diagnosis import count_labels, find_divergence, find_stuck, find_unsampled
from medseg.train.loop import Job, train
from medseg.train.state import TrainState, load_checkpoint, save_checkpoint
from tests.train.conftest import batches, loss

MakeState = Callable[..., TrainState]
MakeJob = Callable[..., Job]


def codes(state: TrainState) -> list[str]:
    return [finding.code for finding in state.findings]


def spoil(bad_epoch: int, bad_iteration: int) -> Callable[[int, int], Iterator[Batch]]:
    """Batches of which one holds a voxel that is no number."""

    def make(epoch: int, iterations: int) -> Iterator[Batch]:
        for iteration, batch in enumerate(batches(epoch, iterations)):
            if (epoch, iteration) == (bad_epoch, bad_iteration):
                batch.image[0, 0, 0, 0, 0] = math.nan
            yield batch

    return make


@pytest.mark.parametrize("iteration", [1, 2])
def test_a_loss_of_nan_names_the_cases_and_leaves_checkpoint_and_best(
    make_state: MakeState, make_job: MakeJob, tmp_path: Path, iteration: int
):
    path = tmp_path / "checkpoint.pt"
    job = make_job(batches=spoil(2, iteration), validate=lambda network: {"dice": 0.5})
    with pytest.raises(ResourceError) as caught:
        train(make_state(), job, [lambda state, numbers: save_checkpoint(path, state, {})])
    assert caught.value.code == "LOSS_NOT_FINITE"
    assert f"epoch 3, iteration {iteration + 1}, with cases case-{iteration}, other" in caught.value.message
    saved = make_state()
    load_checkpoint(path, saved, {})
    assert saved.epoch == 2 and saved.best_epoch == 1
    for weights in (saved.average, saved.best, saved.network.state_dict()):
        assert weights and all(torch.isfinite(value).all() for value in weights.values())


def test_a_gradient_that_is_no_number_is_found_though_the_loss_is_one(
    make_state: MakeState, make_job: MakeJob
):
    def root(logits: Tensor, label: Tensor) -> Tensor:
        return (logits * 0).sum().sqrt()  # 0, with an infinite slope

    with pytest.raises(ResourceError, match=r"the gradient became nan in epoch 1, iteration 1, with cases"):
        train(make_state(), make_job(loss=root))


def test_best_weights_are_those_of_the_best_epoch(make_state: MakeState, make_job: MakeJob):
    scores, averages = iter([0.2, 0.7, 0.1]), []

    def note(state: TrainState, numbers: dict[str, float]) -> None:
        averages.append({name: value.clone() for name, value in state.average.items()})

    state = train(make_state(), make_job(epochs=3, validate=lambda n: {"dice": next(scores)}), [note])
    assert all(torch.equal(state.best[name], value) for name, value in averages[1].items())
    assert not all(torch.equal(state.best[name], value) for name, value in averages[2].items())


def test_a_class_that_no_patch_holds_is_named(make_state: MakeState, make_job: MakeJob):
    state = train(make_state(), make_job(holders={"organ": 3, "tumour": 2, "vessel": 0}))
    assert codes(state) == ["CLASS_NOT_SAMPLED", "CLASS_NOT_SAMPLED"]  # batches hold 0 and 1 only
    tumour, vessel = (finding.message for finding in state.findings)
    assert "none of 24 patches holds `tumour`; 2 training cases do: raise train.foreground_share" in tumour
    assert "`vessel`; 0 training cases do: take it out" in vessel


def test_patches_without_any_label_are_named_once(make_state: MakeState, make_job: MakeJob):
    def empty(epoch: int, iterations: int) -> Iterator[Batch]:
        for batch in batches(epoch, iterations):
            yield batch._replace(label=torch.zeros_like(batch.label))

    state = train(make_state(), make_job(batches=empty, holders={"organ": 3}))
    assert codes(state) == ["PATCHES_WITHOUT_LABELS"]
    assert state.findings[0].message.startswith("0 of 24 patches hold a label")


def test_a_few_samples_are_not_judged_before_the_end():
    census = torch.zeros(258, dtype=torch.int64)
    census[256] = 199
    assert find_unsampled(census, {"organ": 1}, is_end=False) == []
    census[256] = 200
    assert len(find_unsampled(census, {"organ": 1}, is_end=False)) == 1


def test_a_census_counts_batches_with_each_value_and_samples_with_foreground():
    label = torch.zeros(3, 2, 2, 2, dtype=torch.int64)
    label[0, 0, 0, 0], label[1] = 7, IGNORED
    census = count_labels(label)
    assert census.nonzero().flatten().tolist() == [0, 7, IGNORED, 256, 257]
    assert census[[0, 7, IGNORED, 256, 257]].tolist() == [1, 1, 1, 3, 1]


def test_a_learning_rate_that_diverges_is_named(make_state: MakeState, make_job: MakeJob):
    recipe = {"optimizer": "sgd", "learning_rate": 300.0, "schedule": "poly", "warmup_share": 0.7}
    state = train(make_state(**recipe), make_job(**recipe, clip_norm=1e9))
    assert codes(state) == ["LEARNING_RATE_DIVERGES"]
    assert "lower train.learning_rate (now 300)" in state.findings[0].message


def test_a_loss_that_only_wavers_is_none():
    rows = [{"train/loss": 1.0}, {"train/loss": 1.9}]
    assert find_divergence(rows, 0.1) == []


def test_a_bounded_loss_that_loses_its_progress_for_good_is_named():
    rows = [{"train/loss": loss} for loss in (1.2, 0.6, 0.4, 1.0, 1.0, 0.95)]
    (found,) = find_divergence(rows, 0.1)
    assert (
        found.code == "LEARNING_RATE_DIVERGES" and "from 0.4 in epoch 3 to 0.95 in epoch 6" in found.message
    )


@pytest.mark.parametrize(
    "losses",
    [
        (1.2, 0.6, 0.4, 1.0, 1.0),  # two epochs so far
        (1.2, 0.6, 0.4, 1.0, 0.5, 1.0),  # it came back
        (1.2, 1.1, 1.0, 1.15, 1.15, 1.15),  # little was gained yet
        (1.2, 0.4, 0.7, 0.7, 0.7),  # less than half is lost
    ],
)
def test_progress_that_is_not_lost_for_good_is_none(losses: tuple[float, ...]):
    assert find_divergence([{"train/loss": loss} for loss in losses], 0.1) == []


def test_dice_that_stays_at_zero_is_named(make_state: MakeState, make_job: MakeJob):
    state = train(make_state(), make_job(epochs=3, validate=lambda network: {"dice": 0.0}))
    assert (
        codes(state) == ["DICE_STUCK"] and "in all 3 validations up to epoch 3" in state.findings[0].message
    )


def test_a_class_whose_dice_stays_at_zero_is_named_alone(make_state: MakeState, make_job: MakeJob):
    scores = {"dice": 0.4, "dice_organ": 0.8, "dice_tumour": 0.0}
    state = train(make_state(), make_job(epochs=4, validate=lambda network: scores))
    assert [(finding.code, finding.subject) for finding in state.findings] == [("DICE_STUCK", "tumour")]


def test_a_region_is_named_though_it_is_no_class(make_state: MakeState, make_job: MakeJob):
    job = make_job(validate=lambda n: {"dice": 0.4, "dice_whole": 0.0}, holders={"organ": 1})
    assert [finding.subject for finding in train(make_state(), job).findings] == ["whole"]


def test_a_class_that_is_found_once_is_not_stuck():
    rows = [{"val/dice": 0.4, "val/dice_organ": value} for value in (0.0, 0.02, 0.0)]
    assert find_stuck([*rows, {"val/dice": 0.4}]) == []


def test_two_validations_at_zero_are_no_proof():
    assert find_stuck([{"val/dice": 0.0}] * 2) == []


def test_a_gap_between_training_and_held_out_cases_is_named(make_state: MakeState, make_job: MakeJob):
    asked = []

    def score_training(network: nn.Module) -> dict[str, float]:
        asked.append(1)
        return {"dice": 0.95}

    job = make_job(epochs=6, validate=lambda n: {"dice": 0.80}, validate_training=score_training)
    state = train(make_state(), job)
    assert (
        codes(state) == ["GENERALIZATION_GAP"]
        and "0.950 on training cases, 0.800" in state.findings[0].message
    )
    assert [row["epoch"] for row in state.history if "train/dice" in row] == [3, 6] and len(asked) == 2


def test_a_small_gap_is_none(make_state: MakeState, make_job: MakeJob):
    job = make_job(validate=lambda n: {"dice": 0.80}, validate_training=lambda n: {"dice": 0.89})
    assert train(make_state(), job).findings == []


def test_a_training_that_is_well_has_no_findings(make_state: MakeState, make_job: MakeJob):
    job = make_job(validate=lambda network: {"dice": 0.5, "dice_organ": 0.5}, holders={"organ": 1}, loss=loss)
    assert train(make_state(), job).findings == []


def test_findings_survive_a_restart_and_come_once(make_state: MakeState, make_job: MakeJob, tmp_path: Path):
    job = make_job(epochs=4, validate=lambda network: {"dice": 0.0})
    state = train(make_state(), job)
    save_checkpoint(tmp_path / "c.pt", state, {})
    again = make_state()
    load_checkpoint(tmp_path / "c.pt", again, {})
    assert again.findings == state.findings and len(state.findings) == 1
