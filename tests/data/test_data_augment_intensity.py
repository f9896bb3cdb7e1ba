import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medseg.data.augment import IntensityDraw, apply_intensity, draw_intensity
from medseg.data.augment.intensity import bias_degrees
from medseg.data.augment.separable import gaussian_matrix, legendre_matrix, multiply_axes
from medseg.data.settings import Augment
from tests.builders import NOTHING

SHAPE = (12, 10, 8)
SPATIAL = {"rotate_p", "rotate90_p", "scale_p", "elastic_p", "grid_distortion_p"}
INTENSITY = sorted(name for name in Augment.model_fields if name.endswith("_p") and name not in SPATIAL)


def noise(shape=(2, *SHAPE)):
    return np.random.default_rng(0).normal(1, 2, shape).astype(np.float32)


def draw(seed=0, **settings):
    return draw_intensity(np.random.default_rng(seed), NOTHING.model_copy(update=settings))


def change(image, seed=0, **settings):
    return apply_intensity(torch.from_numpy(image.copy()), draw(seed, **settings)).numpy()


def test_without_probabilities_no_value_changes():
    assert np.array_equal(change(noise()), noise())


@pytest.mark.parametrize("name", INTENSITY)
def test_each_change_can_be_switched_on_alone_and_replayed(name):
    changed = change(noise(), **{name: 1.0})
    assert not np.array_equal(changed, noise())
    assert np.array_equal(changed, change(noise(), **{name: 1.0}))
    assert (changed.dtype, changed.shape) == (np.float32, noise().shape)


def test_a_draw_of_everything_comes_back_from_json():
    drawn = draw(**dict.fromkeys(INTENSITY, 1.0))
    tree = json.loads(json.dumps(asdict(drawn)))
    assert IntensityDraw(**{**tree, "bias": tuple(tree["bias"])}) == drawn
    assert all(value != getattr(IntensityDraw(), name) for name, value in asdict(drawn).items())


@pytest.mark.parametrize("name", INTENSITY)
@pytest.mark.parametrize("shape", [(1, 6, 5, 1), (1, 1, 1, 1)])
def test_flat_patches_stay_finite(name, shape):
    assert np.isfinite(change(noise(shape), **{name: 1.0})).all()


@pytest.mark.parametrize("name", INTENSITY)
def test_a_constant_patch_stays_finite(name):
    assert np.isfinite(change(np.full((1, 4, 4, 4), 3, np.float32), **{name: 1.0})).all()


@pytest.mark.parametrize("name", INTENSITY)
def test_the_image_that_was_given_is_left_as_it_was(name):
    image = torch.from_numpy(noise())
    apply_intensity(image, draw(**{name: 1.0}))
    assert np.array_equal(image.numpy(), noise())


def test_noise_has_the_drawn_variance():
    changed = change(np.zeros((1, 40, 40, 40), np.float32), noise_p=1.0, noise_variance=(0.09, 0.09))
    assert changed.std() == pytest.approx(0.3, rel=0.02)


def test_brightness_is_a_factor():
    assert np.allclose(change(noise(), brightness_p=1.0, brightness_range=(1.2, 1.2)), noise() * 1.2)


def test_contrast_keeps_the_mean_and_the_range_of_each_channel():
    image = np.stack([noise()[0], noise()[0] * 10])
    weaker = change(image, contrast_p=1.0, contrast_range=(0.5, 0.5))
    assert np.allclose(weaker.mean(axis=(1, 2, 3)), image.mean(axis=(1, 2, 3)), atol=1e-4)
    assert np.allclose(weaker.std(axis=(1, 2, 3)), image.std(axis=(1, 2, 3)) / 2, rtol=1e-4)
    stronger = change(image, contrast_p=1.0, contrast_range=(1.5, 1.5))
    assert stronger.max() <= image.max()
    assert stronger.min() >= image.min()


@pytest.mark.parametrize("name", ["gamma_p", "gamma_inverted_p"])
def test_gamma_keeps_mean_and_deviation(name):
    changed = change(noise(), **{name: 1.0}, gamma_range=(1.5, 1.5))
    assert np.allclose(changed.mean(axis=(1, 2, 3)), noise().mean(axis=(1, 2, 3)), atol=1e-4)
    assert np.allclose(changed.std(axis=(1, 2, 3)), noise().std(axis=(1, 2, 3)), rtol=1e-3)


def test_gamma_and_inverted_gamma_bend_to_opposite_sides():
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 4, 4, 4)
    bent = [
        change(image, **{name: 1.0}, gamma_range=(1.5, 1.5)).ravel()
        for name in ("gamma_p", "gamma_inverted_p")
    ]
    middle = [values[32] - (values[0] + values[-1]) / 2 for values in bent]
    assert middle[0] < 0 < middle[1]


@pytest.mark.parametrize("sigma", [0.5, 0.8, 4.0])
def test_blur_is_scipys(sigma):
    blurred = change(noise(), blur_p=1.0, blur_sigma=(sigma, sigma))
    wanted = gaussian_filter(noise(), (0, sigma, sigma, sigma), truncate=3.0)
    assert np.allclose(blurred, wanted, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_blur_keeps_a_constant(length):
    assert np.allclose(gaussian_matrix(length, 1.3).sum(axis=1), 1)


def test_channels_are_not_blurred_into_each_other():
    image = np.stack([np.zeros(SHAPE, np.float32), noise()[0]])
    assert not change(image, blur_p=1.0)[0].any()


def test_low_resolution_repeats_fewer_values():
    changed = change(noise(), low_resolution_p=1.0, low_resolution_zoom=(0.5, 0.5))
    assert changed.std() < noise().std()
    assert changed.shape == noise().shape


# --- the bias field ----------------------------------------------------------------------------


def field(seed=0, strength=0.5, shape=(16, 12, 1)):
    """Return the factor at every voxel but the darkest."""
    image = np.ones((1, *shape), np.float32)
    image[0, 0, 0, 0] = 0
    return change(image, seed, bias_field_p=1.0, bias_field_strength=(strength, strength))[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_bias_field_is_smooth_and_no_stronger_than_drawn(seed):
    factors = np.log(field(seed).ravel()[1:])
    assert np.ptp(factors) > 0.02 and np.abs(factors).max() <= 0.5
    assert np.abs(np.diff(np.log(field(seed)[1:, 1:, 0]), axis=0)).max() < 0.2


def test_a_bias_field_leaves_the_darkest_voxel_as_it_is():
    changed = change(noise(), bias_field_p=1.0)
    darkest = noise().reshape(2, -1).argmin(axis=1)
    assert np.allclose(
        np.take_along_axis(changed.reshape(2, -1), darkest[:, None], 1)[:, 0], noise().min((1, 2, 3))
    )


def test_a_bias_field_is_the_polynomial_of_its_coefficients():
    bias = [0.0] * len(bias_degrees())
    bias[bias_degrees().index((1, 0, 0))] = 0.3
    bias[bias_degrees().index((0, 2, 0))] = 0.1
    image = np.ones((1, 5, 3, 2), np.float32)
    image[0, 0, 0, 0] = 0
    changed = apply_intensity(torch.from_numpy(image), IntensityDraw(bias=tuple(bias))).numpy()
    i, j = np.linspace(-1, 1, 5)[:, None], np.linspace(-1, 1, 3)[None]
    wanted = np.exp(0.3 * i + 0.1 * (3 * j**2 - 1) / 2)  # P2 is (3 x^2 - 1) / 2
    assert np.allclose(changed[0, 1:, :, 0], wanted[1:], atol=1e-5)


def test_one_matrix_per_axis_is_the_sum_over_all_three():
    rng = np.random.default_rng(0)
    tensor = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    matrices = [rng.normal(size=shape) for shape in ((6, 3), (2, 4), (7, 5))]
    found = multiply_axes(torch.from_numpy(tensor), matrices).numpy()
    assert np.allclose(found, np.einsum("cijk,ai,bj,dk->cabd", tensor, *matrices), atol=1e-4)


def test_a_single_voxel_lies_in_the_middle_of_the_polynomials():
    assert np.allclose(legendre_matrix(1, 2), [[1, 0, -0.5]])
