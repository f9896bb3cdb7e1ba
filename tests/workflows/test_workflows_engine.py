"""A fold's training when something goes wrong: named, mended where it can be, and nothing lost."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.core.errors import ConfigError
from medseg.data import loader
from medseg.data.loader import Patches
from medseg.data.worklog import explain_death
from medseg.train import loop
from medseg.train.precision import Agreement
from medseg.workflows.fold import make_job, refuse_uneven
from medseg.workflows.train import count_workers
from tests.tiny import document, medseg

WEIGHTS = "model/weights_fold_0.safetensors"


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A preprocessed run whose fold was never trained."""
    copied = Path(shutil.copytree(tiny_run, tmp_path / "RUN"))
    shutil.rmtree(copied / "fold_0")
    return copied


@pytest.fixture(autouse=True)
def no_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicting and evaluating is not what is tested here, and takes most of the time."""
    monkeypatch.setattr("medseg.workflows.run.score", lambda *a, report, **k: [])
    for step in ("write_results", "build", "track_results"):
        monkeypatch.setattr(f"medseg.workflows.run.{step}", lambda *a, **k: None)


def train(run: Path, *more: object):
    return medseg("train", run, "--no-tracking", "--json", *more)


def warnings(result) -> list[str]:
    return [entry["code"] for entry in document(result)["warnings"]]


def fail_at_step(monkeypatch: pytest.MonkeyPatch, at: int, error: Exception, **only: int) -> None:
    """Raise once a training has made so many steps, as long as batches pass in `accumulate` parts."""
    step, steps = loop.train_step, []

    def fail(state, job, batch, census=None, **rated):
        steps.append(1)
        if len(steps) >= at and all(getattr(job.settings, key) == value for key, value in only.items()):
            raise error
        return step(state, job, batch, census, **rated)

    monkeypatch.setattr(loop, "train_step", fail)


def full_memory() -> RuntimeError:
    return torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_memory_that_runs_out_names_patch_batch_and_options(run: Path, monkeypatch: pytest.MonkeyPatch):
    fail_at_step(monkeypatch, 1, full_memory())
    result = train(run)
    error = document(result)["error"]
    assert result.exit_code == 4 and error["code"] == "OUT_OF_MEMORY"
    assert "patch of 16x16x8 and a batch of 2" in error["message"]
    assert all(word in error["hint"] for word in ("--auto-shrink", "grid.batch_size", "grid.patch"))


def test_auto_shrink_goes_on_in_parts_from_the_last_epoch_and_says_so(
    run: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    fail_at_step(monkeypatch, 4, full_memory(), accumulate=1)  # in the second of two epochs
    result = train(run, "--auto-shrink")
    assert result.exit_code == 0, result.stderr
    assert warnings(result) == ["BATCH_SHRUNK"] and "passes in 2 parts" in caplog.text
    assert json.loads((run / "fold_0/engine.json").read_text())["accumulate"] == 2
    rows = (run / "fold_0/history.csv").read_text().splitlines()
    whole = (tiny_run / "fold_0/history.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[1].split(",")[:3] == whole[1].split(",")[:3]  # the first epoch, unharmed
    assert float(rows[2].split(",")[1]) == pytest.approx(float(whole[2].split(",")[1]), abs=1e-4)


def test_auto_shrink_goes_on_where_the_compilers_trial_needs_too_much(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    def compile_one(network, loss, image, label, dtype) -> str:
        if len(image) > 1:
            raise full_memory()
        return "no compiler"

    monkeypatch.setattr("medseg.workflows.start.try_compiling", compile_one)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("compile: auto", "compile: 'on'"))
    result = train(run, "--auto-shrink")
    assert result.exit_code == 0, result.stderr
    assert warnings(result) == ["BATCH_SHRUNK", "COMPILE_REFUSED"]
    engine = json.loads((run / "fold_0/engine.json").read_text())
    assert (engine["device"], engine["accumulate"]) == ("cpu", 2)


@pytest.mark.parametrize(
    ("cores", "ranks", "workers"), [(16, "1", 8), (4, "1", 4), (16, "4", 4), (2, "4", 1)]
)
def test_loader_workers_of_a_gpu_are_no_more_than_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, ranks: str, workers: int
):
    monkeypatch.setattr("medseg.workflows.train.count_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert count_workers(torch.device("cuda")) == workers and count_workers(torch.device("cpu")) == 0


def test_a_resumed_run_keeps_its_parts_and_ends_alike(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        fail_at_step(patch, 1, full_memory(), accumulate=1)
        assert train(run, "--auto-shrink").exit_code == 0
    expected = (run / WEIGHTS).read_bytes()
    engine = (run / "fold_0/engine.json").read_bytes()
    shutil.rmtree(run / "fold_0")
    (run / "fold_0").mkdir()
    (run / "fold_0/engine.json").write_bytes(engine)
    result = train(run)
    assert result.exit_code == 0 and warnings(result) == ["BATCH_SHRUNK"]
    assert (run / WEIGHTS).read_bytes() == expected


def test_hard_cases_are_the_same_after_a_restart(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = run / "config.yaml"
    text = config.read_text().replace("hard_cases: false", "hard_cases: true")
    config.write_text(text.replace("iterations_per_epoch: 2", "iterations_per_epoch: 8"))
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    assert train(whole).exit_code == 0
    scores = load_scores(whole)
    assert len(scores) == 3 and len(set(scores.values())) == 3  # of training cases, no two alike
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        fail_at_step(patch, 11, RuntimeError("killed"))  # in the second of two epochs
        train(run)
    assert train(run).exit_code == 0
    assert load_scores(run) == scores
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def load_scores(run: Path) -> dict[str, float]:
    return torch.load(run / "fold_0/checkpoint.pt", weights_only=True)["case_scores"]


def test_parts_that_differ_between_processes_are_refused_even_if_one_process_made_them(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    engine = {"device": "cpu", "dtype": "float32", "is_compiled": False, "accumulate": 2, "notes": []}
    (run / "fold_0").mkdir()
    (run / "fold_0/engine.json").write_text(json.dumps(engine))
    monkeypatch.setattr("medseg.workflows.train.process_group", lambda device: nullcontext((0, 3)))
    monkeypatch.setattr("medseg.workflows.train.make_job", make_job_alone)
    error = document(train(run))["error"]
    assert error["code"] == "BATCH_UNEVEN" and "a batch of 2 in 2 parts" in error["message"]


@pytest.mark.parametrize(
    ("batch", "parts", "world", "is_refused"),
    [(3, 1, 2, False), (4, 3, 2, False), (3, 2, 1, False), (3, 2, 2, True)],
)
def test_only_parts_of_unequal_shares_are_refused(batch: int, parts: int, world: int, is_refused: bool):
    with pytest.raises(ConfigError) if is_refused else nullcontext() as refusal:
        refuse_uneven(batch, parts, world)
    assert (refusal is not None) == is_refused


def make_job_alone(config, fold, device, share, workers, look):
    return make_job(config, fold, device, (0, 1), workers, look)


def test_single_samples_cannot_be_shrunk(run: Path, monkeypatch: pytest.MonkeyPatch):
    fail_at_step(monkeypatch, 1, full_memory())
    result = train(run, "--auto-shrink")
    assert result.exit_code == 4 and document(result)["error"]["code"] == "OUT_OF_MEMORY"
    assert json.loads((run / "fold_0/engine.json").read_text())["accumulate"] == 2


def test_another_error_keeps_its_traceback(run: Path, monkeypatch: pytest.MonkeyPatch):
    fail_at_step(monkeypatch, 1, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        train(run)


def kill_workers(monkeypatch: pytest.MonkeyPatch, when: Callable[[], bool]) -> None:
    """Let a loader process kill itself while it makes a patch."""
    make, read, parent, at = Patches.__getitem__, loader.read_box, os.getpid(), []

    def note(self: Patches, index: tuple[int, int, int]) -> loader.Cut:
        at[:] = index
        return make(self, index)

    def read_or_die(*arguments: Any) -> Any:
        if os.getpid() != parent and at[:2] == [1, 0] and when():
            os.kill(os.getpid(), signal.SIGKILL)
        return read(*arguments)

    monkeypatch.setattr(Patches, "__getitem__", note)
    monkeypatch.setattr(loader, "read_box", read_or_die)
    monkeypatch.setattr("medseg.workflows.train.count_workers", lambda device: 2)


def test_a_killed_loader_is_named_and_retried_once_with_fewer_workers(
    run: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    marker = tmp_path / "killed"

    def first_time() -> bool:
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    kill_workers(monkeypatch, first_time)
    result = train(run)
    assert result.exit_code == 0, result.stderr
    entry = document(result)["warnings"][0]
    assert entry["code"] == "WORKER_RETRIED" and "trying once more with 1 workers" in entry["message"]
    assert "made training patches was ended by signal Killed at subject-" in entry["message"]
    assert (run / WEIGHTS).read_bytes() == (tiny_run / WEIGHTS).read_bytes()  # nothing lost, nothing twice


def test_a_loader_that_is_killed_twice_ends_the_training(run: Path, monkeypatch: pytest.MonkeyPatch):
    kill_workers(monkeypatch, lambda: True)
    result = train(run)
    error = document(result)["error"]
    assert result.exit_code == 4 and error["code"] == "WORKER_DIED" and "signal Killed" in error["message"]


def test_a_killed_loader_ends_one_of_several_processes_at_once(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medseg.workflows.train.process_group", lambda device: nullcontext((0, 2)))
    monkeypatch.setattr("medseg.workflows.train.make_job", make_job_alone)  # the others would wait for ever
    kill_workers(monkeypatch, lambda: True)
    tried: list[int] = []
    monkeypatch.setattr("gc.collect", lambda: tried.append(1))
    assert document(train(run))["error"]["code"] == "WORKER_DIED" and tried == []


def test_another_kind_of_device_keeps_the_parts(run: Path):
    note = ["BATCH_SHRUNK", "", "in 2 parts"]
    old = {"device": "cuda", "dtype": "float16", "is_compiled": True, "accumulate": 2}
    old["notes"] = [["COMPILE_REFUSED", "", "there"], note]
    (run / "fold_0").mkdir()
    (run / "fold_0/engine.json").write_text(json.dumps(old))
    assert warnings(train(run)) == ["BATCH_SHRUNK"]
    engine = json.loads((run / "fold_0/engine.json").read_text())
    assert (engine["device"], engine["accumulate"], engine["notes"]) == ("cpu", 2, [note])


def test_the_signal_behind_an_unexpected_exit_is_found():
    error = RuntimeError("DataLoader worker (pid(s) 11, 12) exited unexpectedly")
    assert explain_death(error) == ([11, 12], "exit code ?")
    error.__cause__ = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    assert explain_death(error) == ([12], "signal Killed")
    assert explain_death(RuntimeError("another")) is None


def test_a_full_disk_leaves_the_last_checkpoint_and_exits_with_4(
    run: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
):
    from medseg.train import state

    write, written = state.write_bytes, []

    def write_or_fail(path: Path, data: bytes) -> None:
        written.append(data)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(state, "write_bytes", write_or_fail)
        result = train(run)
    assert result.exit_code == 4 and document(result)["error"]["code"] == "DISK_FULL"
    assert (run / "fold_0/checkpoint.pt").read_bytes() == written[0]
    result = train(run)
    assert result.exit_code == 0 and "going on after epoch 1 of 2" in result.stderr
    assert (run / WEIGHTS).read_bytes() == (tiny_run / WEIGHTS).read_bytes()


def test_half_precision_that_is_wrong_is_refused_and_stays_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    asked = []

    def disagree(*arguments: object, has_gradient: bool) -> Agreement:
        asked.append(1)
        return Agreement(0.3, 0.01, 0.02)

    monkeypatch.setattr("medseg.workflows.start.compare_precision", disagree)
    monkeypatch.setattr("medseg.workflows.start.choose_precision", lambda *a: torch.bfloat16)
    monkeypatch.setattr("medseg.workflows.start.try_compiling", lambda *a: "no compiler")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("compile: auto", "compile: 'on'"))
    result = train(run)
    assert result.exit_code == 0, result.stderr
    assert warnings(result) == ["PRECISION_REFUSED", "COMPILE_REFUSED"]
    assert "bfloat16 differs from float32 by 0.3 of the output" in caplog.text
    (run / "fold_0/checkpoint.pt").unlink()
    assert warnings(train(run)) == ["PRECISION_REFUSED", "COMPILE_REFUSED"] and len(asked) == 1


def test_what_works_is_used_and_repeated(run: Path, monkeypatch: pytest.MonkeyPatch):
    compiled: list[object] = []
    monkeypatch.setattr("torch.compile", lambda function, *a, **k: compiled.append(1) or function)
    config = run / "config.yaml"
    text = config.read_text().replace("compile: auto", "compile: 'on'").replace("amp: 'off'", "amp: bf16")
    config.write_text(text)
    assert train(run).exit_code == 0
    engine = json.loads((run / "fold_0/engine.json").read_text())
    assert (engine["dtype"], engine["is_compiled"], engine["notes"]) == ("bfloat16", True, [])
    assert len(compiled) == 1
    assert train(run).exit_code == 0 and len(compiled) == 2


def test_changed_settings_of_a_checkpoint_are_named(run: Path):
    assert train(run).exit_code == 0
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("learning_rate: 0.003", "learning_rate: 0.004"))
    error = document(train(run))["error"]
    assert error["code"] == "CHECKPOINT_FOREIGN" and "train.learning_rate: 0.003 -> 0.004" in error["message"]


def test_a_run_in_use_is_refused_to_train_and_preprocess(run: Path, tiny_cohort: Path):
    from medseg.core.lock import lock_folder

    more = ("--data", tiny_cohort, "--config", tiny_cohort / "tiny.yaml", "-o", run, "--json")
    with lock_folder(run):
        for result in (train(run), *(medseg(verb, "phantom_ct", *more) for verb in ("run", "preprocess"))):
            error = document(result)["error"]
            assert result.exit_code == 4 and error["code"] == "RUN_LOCKED"
            assert f"process {os.getpid()} on " in error["message"]


def test_what_a_model_gave_is_noted_with_the_run_and_in_the_card(run: Path, tiny_run: Path):
    result = train(run, "--init-from", tiny_run)
    assert result.exit_code == 0 and "0 adapted, 0 fresh" in result.stderr
    start = json.loads((run / "fold_0/start.json").read_text())
    assert start["model"] == "phantom_ct" and {row["how"] for row in start["transfer"]} == {"copied"}
    assert "weights that fold_0 started from (phantom_ct)" in (run / "model/MODEL_CARD.md").read_text()
