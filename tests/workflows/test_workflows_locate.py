"""The locator of a run: when it is trained, and that it travels with the model."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from medseg.core.errors import CheckpointError
from medseg.inference.model import load_model
from medseg.train import locator as training
from medseg.workflows import locate as module
from medseg.workflows.locate import settle_locator
from medseg.workflows.progress import Progress
from medseg.workflows.run_folder import RunFolder
from tests.tiny import IDS, hashes, medseg

CPU = torch.device("cpu")


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(tiny_run, tmp_path / "RUN")))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of two patches are worth a locator, and their voxels are coarse enough; few steps."""
    monkeypatch.setattr(module, "WORTH_PATCHES", 1)
    monkeypatch.setattr(module, "choose_spacing", lambda spacing_mm: tuple(spacing_mm))
    monkeypatch.setattr(training, "MOST_STEPS", 30)
    monkeypatch.setattr(training, "LEAST_STEPS", 1)


def settle(run: RunFolder, **settings: object) -> list[str]:
    said: list[str] = []

    class Heard(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    config = run.load_config()
    settle_locator(
        config.model_copy(update={"train": config.train.model_copy(update=settings)}), run, progress=Heard()
    )
    return said


def test_a_locator_is_trained_once_and_travels_with_the_model(
    run: RunFolder, eager: None, tiny_cohort: Path, tmp_path: Path
):
    before = load_model(run.model, CPU)
    (line,) = settle(run)
    assert "locator: recall" in line
    model, made = load_model(run.model, CPU), hashes(run.model)
    assert model.locator is not None and model.sha256 == before.sha256 and before.locator is None
    tree = json.loads((run.model / "locator.json").read_text())
    assert {"spacing_mm", "shape", "threshold", "margin_mm", "recall", "held_out_cases"} <= set(tree)
    assert not any(name in (run.model / "locator.json").read_text() for name in IDS)
    assert settle(run) == [] and hashes(run.model) == made
    scan = tiny_cohort / "imagesTr" / f"{IDS[0]}.nii.gz"
    arguments = ("--mode", "fast", "--threads", 1, "--device", "cpu")
    assert medseg("infer", scan, "-m", run.model, "-o", tmp_path / "OUT", *arguments).exit_code == 0
    where = json.loads((tmp_path / "OUT" / f"{IDS[0]}.json").read_text())["settings"]["where"]
    assert where == (f"locator {model.locator.sha256[:12]}" if model.locator.is_trusted else "content")


def test_a_locator_that_was_torn_is_made_again_with_the_same_bytes(run: RunFolder, eager: None):
    settle(run)
    made = hashes(run.model)
    (run.model / "locator.json").unlink()  # it is written last: a kill came before
    assert load_files(run) is None
    settle(run)
    assert hashes(run.model) == made


def load_files(run: RunFolder):
    from medseg.inference.locator import load_locator

    return load_locator(run.model, 1)


@pytest.mark.parametrize("content", ["{}", "no json", '{"shape": [9, 9, 9], "spacing_mm": [1, 1, 1]}'])
def test_a_locator_that_does_not_fit_is_refused(run: RunFolder, eager: None, content: str):
    settle(run)
    (run.model / "locator.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        load_files(run)
    assert caught.value.code == "MODEL_DAMAGED"


def test_a_locator_put_beside_a_model_is_not_taken_for_its_own(run: RunFolder, eager: None):
    (run.model / "locator.json").write_text("{}")
    with pytest.raises(CheckpointError, match="checksum"):
        load_model(run.model, CPU)


def test_images_of_few_patches_get_none(run: RunFolder):
    assert settle(run) == [] and not (run.model / "locator.json").exists()


def test_images_of_few_coarse_voxels_get_none(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "WORTH_PATCHES", 1)
    assert settle(run) == [] and not (run.model / "locator.json").exists()


def test_it_can_be_switched_off(run: RunFolder, eager: None):
    assert settle(run, locator="off") == [] and not (run.model / "locator.json").exists()


def test_the_setting_changes_no_weight_and_so_no_checkpoint(run: RunFolder):
    from medseg.config import Config
    from medseg.workflows.fold import load_fold

    config = run.load_config()
    other = Config.model_validate(
        {**config.model_dump(), "train": {**config.train.model_dump(), "locator": False}}
    )
    fold = load_fold(run, config, 0)
    assert other.train.locator == "off" and fold.origin(other) == fold.origin(config)
