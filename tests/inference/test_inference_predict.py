import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medseg.inference.predict import SLOW_CONV3D, choose_window_batch, predict_logits
from medseg.models import MODELS, Grid

PATCH = (6, 4, 5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Echo(nn.Module):
    """Returns its input, and remembers the shapes it saw."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor, self.shapes = factor, []

    def forward(self, image: Tensor) -> Tensor:
        self.shapes.append(tuple(image.shape))
        return image * self.factor


class Ramp(nn.Module):
    """Adds the position in the window along the first axis: not equivariant to mirroring."""

    def forward(self, image: Tensor) -> Tensor:
        return image + torch.arange(image.shape[2]).view(1, 1, -1, 1, 1)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 14), st.integers(1, 14), st.integers(1, 14)),
    overlap=st.floats(0, 0.8),
    batch=st.integers(1, 5),
)
def test_what_a_network_repeats_comes_back_whole(shape: tuple[int, int, int], overlap: float, batch: int):
    image = noise(2, *shape)
    logits = predict_logits([Echo()], image, PATCH, dims=3, overlap=overlap, window_batch=batch)
    assert logits.shape == image.shape
    torch.testing.assert_close(logits, image, rtol=1e-5, atol=1e-5)


def test_a_small_image_is_padded_with_zeros_evenly_on_both_sides():
    seen = []

    class Spy(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            seen.append(image[0, 0])
            return image

    logits = predict_logits([Spy()], torch.ones(1, 3, 4, 2), PATCH, dims=3, overlap=0.5)
    expected = torch.zeros(PATCH)
    expected[1:4, :, 1:3] = 1  # 3 voxels are missing along i and k: one before, two after
    assert len(seen) == 1 and torch.equal(seen[0], expected) and logits.shape == (1, 3, 4, 2)


def test_a_2d_network_sees_slices_without_their_flat_axis():
    network = Echo()
    image = noise(1, 7, 6, 3)
    logits = predict_logits([network], image, (4, 4, 1), dims=2, overlap=0.5, window_batch=4)
    torch.testing.assert_close(logits, image, rtol=1e-5, atol=1e-5)
    assert {shape[1:] for shape in network.shapes} == {(1, 4, 4)}


def test_no_batch_exceeds_the_windows_asked_for():
    network = Echo()
    predict_logits([network], noise(1, 14, 4, 5), PATCH, dims=3, overlap=0.5, window_batch=3)
    assert [shape[0] for shape in network.shapes] == [3, 1]  # windows start at 0, 3, 5 and 8


def test_networks_are_averaged():
    image = noise(1, 9, 8, 7)
    logits = predict_logits([Echo(1.0), Echo(4.0)], image, PATCH, dims=3, overlap=0.5)
    torch.testing.assert_close(logits, image * 2.5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 1), (0, 1, 2)])
def test_mirroring_changes_nothing_for_an_equivariant_network(axes: tuple[int, ...]):
    image = noise(2, 9, 8, 7)
    network = Echo()
    logits = predict_logits([network], image, PATCH, dims=3, overlap=0.5, mirror_axes=axes)
    torch.testing.assert_close(logits, image, rtol=1e-5, atol=1e-5)
    plain = Echo()
    predict_logits([plain], image, PATCH, dims=3, overlap=0.5)
    assert len(network.shapes) == 2 ** len(axes) * len(plain.shapes)


def test_mirrored_predictions_are_brought_back_before_they_are_averaged():
    image = torch.zeros(1, *PATCH)
    logits = predict_logits([Ramp()], image, PATCH, dims=3, overlap=0.5, mirror_axes=(0,))
    # 0..5 and its mirror image average to 2.5 everywhere
    torch.testing.assert_close(logits, torch.full_like(image, 2.5))


def test_an_axis_that_is_not_mirrored_stays_as_it_is():
    logits = predict_logits([Ramp()], torch.zeros(1, *PATCH), PATCH, dims=3, overlap=0.5, mirror_axes=(1, 2))
    assert logits[0, :, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_the_middle_of_a_window_counts_more_than_its_edge():
    # Windows at 0 and 3; the voxels between are at 3..5 of the first and 0..2 of the second.
    logits = predict_logits([Ramp()], torch.zeros(1, 9, 4, 5), PATCH, dims=3, overlap=0.5)[0, :, 2, 2]
    assert logits[0] == 0 and logits[8] == 5
    assert float(logits[4]) == pytest.approx((4 + 1) / 2)  # as far from one middle as from the other
    near, far = (math.exp(-0.5 * (distance / (6 / 8)) ** 2) for distance in (0.5, 2.5))
    assert float(logits[3]) == pytest.approx((3 * near + 0 * far) / (near + far), rel=1e-4)


def test_half_precision_windows_are_summed_in_float32():
    class Half(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.half()

    assert predict_logits([Half()], noise(1, 9, 8, 7), PATCH, dims=3, overlap=0.5).dtype is torch.float32


def test_no_network_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="no network"):
        predict_logits([], noise(1, *PATCH), PATCH, dims=3, overlap=0.5)


@pytest.mark.parametrize(
    ("patch", "batch"),
    [
        ((32, 32, 8), 1),  # 32 x 32 x 32 rows of the 32 channels: already over the limit
        ((25, 25, 8), 2),  # 32 x 25 x 25 = 20000: over it with two
        ((16, 16, 8), 4),  # 8192: over it with four
        ((4, 4, 4), 1),  # 512: not even four lift it, so one is enough
    ],
)
def test_the_batch_of_windows_follows_the_formula(patch: tuple[int, int, int], batch: int):
    network = nn.Conv3d(32, 2, 3, padding=1)
    rows = 32 * patch[0] * patch[1]
    if batch > 1:
        assert rows * batch > SLOW_CONV3D >= rows * batch / 2
    assert choose_window_batch(network, 32, patch, 3) == batch


@pytest.mark.parametrize("name", ["unet", "strided_unet", "light_unet", "residual_unet"])
def test_a_small_window_tells_the_batch_of_a_large_one(name: str):
    levels = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    patch, small = (40, 56, 16), (16, 16, 8)
    grid = Grid(3, patch, (1.0, 1.0, 2.0), levels, ((3, 3, 3),) * 4, (4, 16, 32, 32))
    network = MODELS[name](1, 3, grid).eval()
    batch = choose_window_batch(network, 1, patch, 3, small)
    assert batch == choose_window_batch(network, 1, patch, 3) != choose_window_batch(network, 1, small, 3)


def test_the_hooks_of_the_measurement_are_gone():
    network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1))
    choose_window_batch(network, 1, (8, 8, 8), 3)
    assert not network[0]._forward_pre_hooks


def test_2d_has_a_fixed_batch_of_windows():
    assert choose_window_batch(nn.Conv2d(1, 2, 3), 1, (64, 64, 1), 2) == 4
