"""Every file in configs/ is short, names its pipeline first, and resolves to settings that can be built."""

from pathlib import Path

import pytest
import yaml

from medseg.config.layers import differences, resolve
from medseg.config.pipelines import find_pipeline
from medseg.core.select import select
from medseg.losses import LOSSES
from medseg.models import MODELS

FILES = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def pipeline_of(path: Path) -> str:
    return next(iter(yaml.safe_load(path.read_text()).items()))[1]


def test_there_are_configs():
    assert {path.stem for path in FILES} >= {"hippocampus_quick", "hippocampus_gpu", "phantom_smoke"}


@every_file
def test_at_most_25_lines(path):
    assert len(path.read_text().splitlines()) <= 25


@every_file
def test_first_key_is_the_pipeline(path):
    assert next(iter(yaml.safe_load(path.read_text()))) == "pipeline"


@every_file
def test_resolves_and_changes_its_pipeline(path):
    pipeline = find_pipeline(pipeline_of(path))
    assert differences(pipeline, resolve(pipeline, path))


@every_file
def test_names_a_model_and_a_loss_with_known_options(path):
    config = resolve(find_pipeline(pipeline_of(path)), path)
    assert select("model", MODELS, config.model.name, config.model.options).keywords == config.model.options
    assert select("loss", LOSSES, config.loss.name, config.loss.options).keywords == config.loss.options


@every_file
def test_the_command_in_its_head_names_the_file_and_the_pipeline(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"run {pipeline_of(path)} --config configs/{path.name}" in line for line in head)
