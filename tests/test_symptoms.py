"""docs/symptoms.md advises settings that exist, and shows a picture that can be drawn again."""

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from medseg.config.layers import resolve
from medseg.config.pipelines import find_pipeline
from medseg.data.plan import choose_topology
from medseg.models import MODELS, Grid
from medseg.train.sketch import sketch
from medseg.workflows.train import select_all

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "symptoms.md").read_text(encoding="utf-8")
SETTINGS = sorted({shlex.split(setting)[0] for setting in re.findall(r"`--set ([^`]+)`", PAGE)})


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("symptoms_pictures", DOCS / "symptoms_pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_can_be_given(setting):
    config = resolve(find_pipeline("phantom_ct"), None, ["model={name: unet}", setting])
    select_all(config)  # names of losses, networks and their options, too
    dims = config.grid.dims or 3
    patch = config.grid.patch or (56, 48, 24)
    strides, kernels = choose_topology(patch, (1.5, 1.5, 3.0))
    sketch(
        lambda: MODELS[config.model.name](
            1, 3, Grid(dims, patch, (1.5, 1.5, 3.0), strides, kernels), **config.model.options
        )
    )
    assert setting.split("=")[0].split(".")[0] in config.model_dump()


def test_each_picture_is_shown_and_small(pictures):
    shown = set(re.findall(r"\(symptoms/(\w+)\.png\)", PAGE))
    assert shown == set(pictures.PICTURES)
    assert [name for name in shown if (DOCS / "symptoms" / f"{name}.png").stat().st_size > 60_000] == []


@pytest.mark.parametrize("name", ["jagged_edges", "small_objects", "checkerboard"])
def test_a_picture_without_training_is_the_same_again(name, pictures, tmp_path, monkeypatch):
    from matplotlib.image import imread

    pictures.PICTURES[name](tmp_path / "again.png")
    again, stored = imread(tmp_path / "again.png"), imread(DOCS / "symptoms" / f"{name}.png")
    assert again.shape == stored.shape and np.abs(again - stored).mean() < 0.02
