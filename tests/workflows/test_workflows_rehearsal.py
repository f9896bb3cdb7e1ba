"""A wrong value of a network, loss or optimizer is refused before data is touched."""

import pytest
import torch

from medseg.config.layers import resolve
from medseg.config.pipelines import find_pipeline
from medseg.core.errors import ConfigError
from medseg.workflows.train import select_all

WRONG = [
    ("model={name: deeplab_v3, options: {size: hugee}}", "UNKNOWN_NAME"),
    ("model={name: unet, options: {upsampling: liner}}", "UNKNOWN_NAME"),
    ("model={name: unet, options: {dropout: hello}}", "OPTION_INVALID"),
    ("model.options.features=[16,32,64]", "FEATURES_TOO_FEW"),
    ("loss.options={class_weights: [1,2]}", "CLASS_WEIGHTS"),
    ("loss.options={smooth: 0}", "SMOOTH"),
    ("train.supervision_weights=[0,0]", "SUPERVISION_WEIGHTS"),
    ("train.supervision_weights=[1,1,1,1,1]", "SUPERVISION_WEIGHTS"),
    ("train.optimizer_options={momentum: hello}", "OPTION_INVALID"),
    ("train.optimizer_options={steps: hello}", "OPTION_INVALID"),
]


@pytest.mark.parametrize(("setting", "code"), WRONG)
def test_a_value_that_cannot_be_is_refused_with_a_code(setting: str, code: str):
    config = resolve(find_pipeline("hippocampus_mr"), None, [setting])
    with pytest.raises(ConfigError) as caught:
        select_all(config)
    assert caught.value.code == code


@pytest.mark.parametrize("grid", ["grid.patch=null", "grid.spacing_mm=null"])
@pytest.mark.parametrize(
    "setting", ["model.options.features=[16,32,64]", "train.supervision_weights=[1,1,1]"]
)
def test_what_a_plan_alone_can_tell_is_left_to_it(grid: str, setting: str):
    select_all(resolve(find_pipeline("hippocampus_mr"), None, [grid, setting]))


def test_a_network_that_needs_other_spacing_is_left_to_the_plan():
    select_all(
        resolve(find_pipeline("hippocampus_mr"), None, ["grid.patch=null", "model={name: swin_unetr}"])
    )


def test_regions_are_tried_too():
    regions = "data.regions=[{name: whole, covers: [1, 2], paints: 1}, {name: back, covers: [2], paints: 2}]"
    weights = "loss.options.class_weights=[1,1,1]"  # of three classes; a region is there or not
    select_all(resolve(find_pipeline("hippocampus_mr"), None, [weights]))
    with pytest.raises(ConfigError, match="do not fit 2 classes"):
        select_all(resolve(find_pipeline("hippocampus_mr"), None, [weights, regions]))


def test_no_random_number_is_drawn():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    select_all(find_pipeline("hippocampus_mr"))
    assert torch.equal(torch.rand(1), expected)
