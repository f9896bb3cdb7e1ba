"""Deep supervision: weights and labels of the levels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import ConfigError
from medseg.losses import LOSSES, deep_supervised
from medseg.losses.deep import resize_label


def first_logit(logits, label):
    """A loss whose value shows which level it came from."""
    return logits.flatten()[0]


def outputs(*values: float) -> list[torch.Tensor]:
    return [torch.full((1, 2, 8 >> level, 8 >> level), value) for level, value in enumerate(values)]


LABEL = torch.zeros(1, 8, 8, dtype=torch.long)


def test_weights_halve_per_level_and_sum_to_one():
    # (4 x 7 + 2 x 14 + 1 x 21) / 7
    assert deep_supervised(first_logit)(outputs(7, 14, 21), LABEL).item() == pytest.approx(11)


def test_given_weights_are_scaled_to_sum_one():
    assert deep_supervised(first_logit, [3, 1])(outputs(4, 8), LABEL).item() == pytest.approx(5)


def test_level_of_weight_zero_is_not_computed():
    levels = outputs(4, float("nan"))
    assert deep_supervised(first_logit, [1, 0])(levels, LABEL).item() == 4


def test_single_tensor_passes_unchanged():
    logits = torch.randn(1, 2, 8, 8)
    assert torch.equal(
        deep_supervised(LOSSES["dice_focal"])(logits, LABEL), LOSSES["dice_focal"](logits, LABEL)
    )


def test_list_of_one_equals_the_tensor():
    logits = torch.randn(1, 2, 8, 8)
    assert torch.equal(
        deep_supervised(LOSSES["dice_focal"])([logits], LABEL), LOSSES["dice_focal"](logits, LABEL)
    )


def test_wrong_number_of_weights_is_refused():
    with pytest.raises(ConfigError, match="2 deep supervision weights for 3 outputs"):
        deep_supervised(first_logit, [1, 1])(outputs(1, 2, 3), LABEL)


def test_levels_meet_the_label_at_their_own_size():
    seen = []

    def watch(logits, label):
        seen.append((tuple(logits.shape[2:]), tuple(label.shape[1:])))
        return logits.sum()

    deep_supervised(watch)([torch.zeros(1, 2, 4, 9, 7), torch.zeros(1, 2, 4, 5, 4)], torch.zeros(1, 4, 9, 7))
    assert seen == [((4, 9, 7), (4, 9, 7)), ((4, 5, 4), (4, 5, 4))]


def test_label_is_taken_at_the_centres_axis_by_axis():
    label = torch.arange(12).reshape(1, 2, 6)
    # centres of 3 out of 6 lie between voxels 0|1, 2|3, 4|5: the upper one counts
    assert resize_label(label, (2, 3)).tolist() == [[[1, 3, 5], [7, 9, 11]]]


def test_ignored_voxels_survive_downsampling_as_they_are():
    assert resize_label(torch.full((1, 6), 255), (2,)).tolist() == [[255, 255]]


@given(st.integers(1, 40), st.integers(1, 40))
def test_resized_label_equals_torch_nearest_exact(old, new):
    label = torch.arange(old)[None]
    peer = torch.nn.functional.interpolate(label[None].double(), new, mode="nearest-exact")[0].long()
    # torch scales in float32, which can miss an exact half by one voxel
    exact = ((2 * torch.arange(new) + 1) * old) % (2 * new) != 0
    assert torch.equal(resize_label(label, (new,))[0][exact], peer[0][exact])
