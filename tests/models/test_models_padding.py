"""Any size goes in; the padding is the least that works and leaves no trace in the size."""

from __future__ import annotations

from math import prod

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medseg.models.padding import PadToStride, padded_shape

axes = st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16])), min_size=2, max_size=3)


@given(axes)
def test_padded_shape_is_divisible_and_leaves_two_voxels(pairs):
    shape, stride = zip(*pairs)
    steps = [n / s for n, s in zip(padded_shape(shape, stride), stride)]
    assert all(step == int(step) for step in steps)
    assert prod(steps) >= 2


@given(axes)
def test_padding_adds_less_than_one_step_unless_one_voxel_would_be_left(pairs):
    shape, stride = zip(*pairs)
    added = [end - n for n, end in zip(shape, padded_shape(shape, stride))]
    if prod(-(-n // s) for n, s in pairs) > 1:
        assert all(0 <= extra < s for extra, s in zip(added, stride))


def test_single_voxel_bottom_grows_along_the_cheapest_axis():
    assert padded_shape((3, 8), (4, 8)) == (8, 8)


def test_divisible_shape_is_left_alone():
    assert padded_shape((4, 16), (2, 8)) == (4, 16)


def test_edge_is_repeated_at_the_end():
    seen = []

    class Watch(nn.Module):
        def forward(self, image):
            seen.append(image)
            return image

    PadToStride(Watch(), (1, 4))(torch.tensor([[[[1.0, 2, 3, 4, 5], [6, 7, 8, 9, 10]]]]))
    assert seen[0][0, 0].tolist() == [[1, 2, 3, 4, 5, 5, 5, 5], [6, 7, 8, 9, 10, 10, 10, 10]]


def test_identity_network_returns_the_input():
    image = torch.randn(1, 2, 5, 7, 3)
    assert torch.equal(PadToStride(nn.Identity(), (4, 4, 2))(image), image)


def test_coarse_levels_are_cropped_to_what_covers_the_input():
    class Two(nn.Module):
        def forward(self, image):
            return [image, image[..., ::4]]

    fine, coarse = PadToStride(Two(), (1, 8))(torch.zeros(1, 1, 2, 9))
    assert fine.shape == (1, 1, 2, 9)
    assert coarse.shape == (1, 1, 2, 3)  # voxels 0-3, 4-7 and 8-11
