"""MONAI's dictionary transforms by name, as YAML gives them: the label set stays the same."""

import warnings

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.errors import ConfigError
from medseg.core.select import select
from medseg.data.loader import Patches
from medseg.data.settings import Augment
from tests.builders import NOTHING, make_plan, store_box_case

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the packages that MONAI looks for; not of what is tested here
    import monai.transforms as _  # noqa: F401

IMAGE_ONLY = """
- {name: "monai.transforms:RandGibbsNoised", options: {keys: [image], prob: 1.0, alpha: [0.3, 0.6]}}
- {name: "monai.transforms:RandBiasFieldd", options: {keys: [image], prob: 1.0}}
- name: "monai.transforms:RandCoarseDropoutd"
  options: {keys: [image], prob: 1.0, holes: 2, spatial_size: 2}
"""
BOTH = """
- {name: "monai.transforms:RandAxisFlipd", options: {keys: [image, label], prob: 1.0}}
- name: "monai.transforms:RandAffined"
  options: {keys: [image, label], prob: 1.0, rotate_range: 0.4, mode: [bilinear, nearest]}
- name: "monai.transforms:RandGridDistortiond"
  options: {keys: [image, label], prob: 1.0, mode: [bilinear, nearest]}
"""
STEPS = [
    (name, step) for name, text in (("image", IMAGE_ONLY), ("both", BOTH)) for step in yaml.safe_load(text)
]
SMOOTH = {
    "name": "monai.transforms:RandAffined",
    "options": {"keys": ["image", "label"], "prob": 1.0, "rotate_range": 0.4, "mode": "bilinear"},
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return [store_box_case(tmp_path_factory.mktemp("store") / "a", shape=(14, 12, 10))]


def build(cases, steps, patch=(10, 8, 6)):
    extra = Augment(extra=steps).extra
    builders = [select("transform", {}, step.name, step.options) for step in extra]
    plan = make_plan(patch=patch)
    return Patches(cases, plan, NOTHING, seed=0, foreground_every=(1, 1), extra=builders)


def take(patches, sample, epoch=0):
    batch = patches.finish([patches[epoch, sample, 0]])
    return batch.image[0], batch.label[0]


@pytest.mark.parametrize(("keys", "step"), STEPS, ids=[step["name"].split(":")[1] for _, step in STEPS])
@settings(max_examples=8)
@given(sample=st.integers(0, 10_000))
def test_the_label_set_stays_the_same(cases, keys, step, sample):
    plain_image, plain_label = take(build(cases, []), sample)
    image, label = take(build(cases, [step]), sample)
    assert set(np.unique(label)) <= {0, *np.unique(plain_label)}
    assert image.shape == plain_image.shape
    assert not np.array_equal(image, plain_image)
    assert keys == "both" or np.array_equal(label, plain_label)


def test_a_chain_of_all_gives_the_same_patch_again(cases):
    patches = build(cases, [step for _, step in STEPS])
    first = take(patches, 5, epoch=1)
    take(patches, 0)
    again = take(patches, 5, epoch=1)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert type(first[0]).__name__ == "Tensor"  # no MetaTensor leaves the patch


def test_an_interpolated_label_is_refused_not_rounded(cases):
    patches = build(cases, [SMOOTH])
    with pytest.raises(ConfigError) as caught:
        for sample in range(10):
            take(patches, sample)
    assert caught.value.code == "TRANSFORM_LABELS"


def test_a_misspelt_option_of_monai_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        select("transform", {}, "monai.transforms:RandGibbsNoised", {"probability": 1.0})
    assert caught.value.hint == "did you mean `prob`?"
