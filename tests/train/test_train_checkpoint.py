import math
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.core.errors import CheckpointError
from medseg.train.loop import Job, train
from medseg.train.optimizers import OPTIMIZERS
from medseg.train.state import TrainState, load_checkpoint, save_checkpoint

MakeState = Callable[..., TrainState]
MakeJob = Callable[..., Job]
ORIGIN = {"train.epochs": 4, "case a": "6d7f", "fold": 0}


def everything(state: TrainState) -> dict:
    """Return all of a state but its durations, with tensors as bytes."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            return str(value.dtype), value.numpy().tobytes()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    history = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in state.history]
    return plain(
        {
            **vars(state),
            "network": state.network.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "history": history,
        }
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_training_is_bit_identical(
    make_state: MakeState, make_job: MakeJob, tmp_path: Path, optimizer: str, stop: int
):
    def job(epochs: int) -> Job:
        return make_job(epochs=epochs, optimizer=optimizer, validate=lambda network: {"dice": 0.5})

    whole = train(make_state(optimizer=optimizer), job(4))

    class KilledError(Exception):
        pass

    def save_and_die(state: TrainState, numbers: dict[str, float]) -> None:
        save_checkpoint(tmp_path / "checkpoint.pt", state, ORIGIN)
        if state.epoch == stop:
            raise KilledError

    with pytest.raises(KilledError):
        train(make_state(optimizer=optimizer), job(4), [save_and_die])
    resumed = make_state(optimizer=optimizer)
    load_checkpoint(tmp_path / "checkpoint.pt", resumed, ORIGIN)
    assert resumed.epoch == stop
    torch.manual_seed(999)  # the state of the global generator must not matter
    assert everything(train(resumed, job(4))) == everything(whole)


def test_a_checkpoint_gives_back_everything(make_state: MakeState, make_job: MakeJob, tmp_path: Path):
    state = train(make_state(), make_job(early_stop_epochs=1, validate=lambda network: {"dice": 0.5}))
    save_checkpoint(tmp_path / "checkpoint.pt", state, ORIGIN)
    loaded = make_state()
    load_checkpoint(tmp_path / "checkpoint.pt", loaded, ORIGIN)
    assert loaded.is_stopped and everything(loaded) == everything(state)


def test_it_is_its_owners_alone_and_leaves_nothing_beside_it(make_state: MakeState, tmp_path: Path):
    save_checkpoint(tmp_path / "checkpoint.pt", make_state(), ORIGIN)
    assert stat.S_IMODE((tmp_path / "checkpoint.pt").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_writing_that_fails_keeps_the_old_one(
    make_state: MakeState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, make_state(), ORIGIN)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    later = make_state()
    later.epoch = 7
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, later, ORIGIN)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def dump_plainly(tree: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(tree))


@pytest.mark.parametrize("dump", [torch.save, dump_plainly])
def test_code_in_a_checkpoint_is_refused_and_not_executed(
    make_state: MakeState, tmp_path: Path, dump: Callable[..., None]
):
    path, witness = tmp_path / "checkpoint.pt", tmp_path / "executed"
    dump({"schema": 2, "origin": "{}", "network": Bomb(witness)}, path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, make_state(), ORIGIN)
    assert caught.value.code == "CHECKPOINT_DAMAGED" and not witness.exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train.epochs": 5}, "train.epochs: 4 -> 5"),
        ({"case a": "x" * 99}, 'case a: "6d7f" -> "' + "x" * 36 + "..."),
        ({"case b": "1"}, 'case b: unset -> "1"'),
        ({str(number): None for number in range(9)}, "and 1 more"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference_and_changes_nothing(
    make_state: MakeState, make_job: MakeJob, tmp_path: Path, changed: dict, said: str
):
    save_checkpoint(tmp_path / "checkpoint.pt", train(make_state(), make_job()), ORIGIN)
    state = make_state()
    before = everything(state)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "checkpoint.pt", state, ORIGIN | changed)
    assert caught.value.code == "CHECKPOINT_FOREIGN" and everything(state) == before
    assert said in caught.value.message


@pytest.mark.parametrize("content", [[1, 2], {"schema": 99, "origin": "{}"}])
def test_another_tree_is_refused(make_state: MakeState, tmp_path: Path, content: object):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "checkpoint.pt", make_state(), ORIGIN)


def test_an_infinite_number_of_the_history_survives(make_state: MakeState, tmp_path: Path):
    state = make_state()
    state.history.append({"train/loss": math.inf})
    save_checkpoint(tmp_path / "checkpoint.pt", state, ORIGIN)
    loaded = make_state()
    load_checkpoint(tmp_path / "checkpoint.pt", loaded, ORIGIN)
    assert loaded.history == [{"train/loss": math.inf}]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused(make_state: MakeState, tmp_path: Path, data: st.DataObject):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, make_state(), ORIGIN)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="length")]
    else:
        start = data.draw(st.integers(0, len(content) - 1), label="start")
        content[start : start + 64] = bytes(byte ^ 0x5A for byte in content[start : start + 64])
    path.write_bytes(content)
    state = make_state()
    before = everything(state)
    try:
        load_checkpoint(path, state, ORIGIN)
    except CheckpointError:
        assert everything(state) == before
    else:  # the damage hit padding that no one reads
        assert everything(state) == before
