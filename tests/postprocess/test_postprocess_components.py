"""Components on phantoms that can be counted by hand."""

import numpy as np
import pytest

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.postprocess.components import keep_largest, remove_small_components

SPACING_MM = (1.0, 2.0, 5.0)  # 10 mm3


@pytest.fixture
def organ_and_speck():
    """Label 1: 8 and 2 voxels; label 2: 3 and 1 voxels."""
    labels_IJK = np.zeros((12, 9, 5), dtype=np.uint8)
    labels_IJK[1:3, 1:3, 1:3] = 1
    labels_IJK[6:8, 1, 1] = 1
    labels_IJK[1:4, 6, 1] = 2
    labels_IJK[8, 6, 1] = 2
    return labels_IJK


def grid(labels_IJK, spacing_mm=SPACING_MM):
    return Geometry.of_spacing(labels_IJK.shape, spacing_mm)


def count(labels_IJK):
    return {value: int(np.sum(labels_IJK == value)) for value in (1, 2)}


def test_largest_component_of_each_label_stays(organ_and_speck):
    assert count(keep_largest(organ_and_speck, grid(organ_and_speck))) == {1: 8, 2: 3}


def test_largest_of_some_labels_leaves_others(organ_and_speck):
    assert count(keep_largest(organ_and_speck, grid(organ_and_speck), labels=[2])) == {1: 10, 2: 3}


def test_all_that_tie_for_the_largest_stay(organ_and_speck):
    organ_and_speck[8:11, 3, 1] = 2
    assert count(keep_largest(organ_and_speck, grid(organ_and_speck))) == {1: 8, 2: 6}


def test_labels_that_touch_are_two_components():
    labels_IJK = np.zeros((8, 3, 3), dtype=np.uint8)
    labels_IJK[0:3, 1, 1] = 1
    labels_IJK[3:5, 1, 1] = 2
    labels_IJK[5:7, 1, 1] = 1
    assert count(keep_largest(labels_IJK, grid(labels_IJK))) == {1: 3, 2: 2}


def test_large_label_values_are_kept(organ_and_speck):
    labels_IJK = organ_and_speck.astype(np.int32) * 70_000
    assert np.sum(keep_largest(labels_IJK, grid(labels_IJK)) == 140_000) == 3


@pytest.mark.parametrize(("connectivity", "left"), [(6, 3), (18, 5), (26, 6)])
def test_connectivity_says_what_touches(connectivity, left):
    labels_IJK = np.zeros((6, 6, 6), dtype=np.uint8)
    labels_IJK[0:3, 1, 1] = 1
    labels_IJK[3, 2, 1] = labels_IJK[4, 2, 1] = 1  # over an edge
    labels_IJK[5, 3, 2] = 1  # over a corner
    assert count(keep_largest(labels_IJK, grid(labels_IJK), connectivity=connectivity))[1] == left


@pytest.mark.parametrize(("connectivity", "left"), [(6, 3), (18, 4), (26, 4)])
def test_connectivity_in_a_2d_image_is_4_or_8(connectivity, left):
    labels_IJK = np.zeros((6, 6, 1), dtype=np.uint8)
    labels_IJK[0:3, 1] = 1
    labels_IJK[3, 2] = 1
    assert count(keep_largest(labels_IJK, grid(labels_IJK), connectivity=connectivity))[1] == left


def test_unknown_connectivity_is_refused(organ_and_speck):
    with pytest.raises(ConfigError, match="connectivity 8"):
        keep_largest(organ_and_speck, grid(organ_and_speck), connectivity=8)


@pytest.mark.parametrize(
    ("min_volume_mm3", "left"), [(10, {1: 10, 2: 4}), (25, {1: 8, 2: 3}), (31, {1: 8, 2: 0})]
)
def test_threshold_is_a_volume(organ_and_speck, min_volume_mm3, left):
    result = remove_small_components(organ_and_speck, grid(organ_and_speck), min_volume_mm3=min_volume_mm3)
    assert count(result) == left


def test_threshold_means_the_same_at_every_spacing(organ_and_speck):
    fine = grid(organ_and_speck, (0.5, 1.0, 2.5))  # an eighth of the volume
    assert count(remove_small_components(organ_and_speck, fine, min_volume_mm3=25 / 8)) == {1: 8, 2: 3}


def test_threshold_keeps_its_own_value(organ_and_speck):
    tenth = grid(organ_and_speck, (0.1, 1.0, 1.0))  # 3 * 0.1 > 0.3 > 2 * 0.1 in binary
    assert count(remove_small_components(organ_and_speck, tenth, min_volume_mm3=0.1 + 0.2)) == {1: 8, 2: 3}


def test_small_components_of_other_labels_stay(organ_and_speck):
    result = remove_small_components(organ_and_speck, grid(organ_and_speck), min_volume_mm3=1e6, labels=[2])
    assert count(result) == {1: 10, 2: 0}
