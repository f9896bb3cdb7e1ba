"""Images are prepared as nnU-Net does it: hand-computed values."""

from typing import Any

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.inference.nnunet.intensities import Scheme, normalize
from medseg.inference.nnunet.preparation import Preparation, one_hot
from medseg.inference.nnunet.resampling import Resampling
from tests.builders import STORAGES, positions, restore

CUBIC = Resampling(order=3, order_z=0, force_separate_z=None)
LINEAR = Resampling(order=1, order_z=0, force_separate_z=None)
CT = {"mean": 50.0, "std": 25.0, "percentile_00_5": 0.0, "percentile_99_5": 100.0}


def make_preparation(**changes: Any) -> Preparation:
    values: dict[str, Any] = {
        "reader": "SimpleITKIO",
        "transpose": (0, 1, 2),
        "spacing_mm": (3.0, 1.5, 1.5),
        "schemes": (Scheme("NoNormalization"),),
        "image": CUBIC,
        "mask": LINEAR,
        "logits": LINEAR,
    }
    return Preparation(**(values | changes))


def make_volume(
    shape: tuple[int, int, int] = (4, 3, 2), spacing_mm: tuple[float, ...] = (1.5, 1.5, 3.0)
) -> Volume:
    image = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(1, *shape)
    return Volume(image, Geometry.of_spacing(shape, spacing_mm))


def scale(values: list[float], *schemes: Scheme) -> list[float]:
    image = np.array(values, np.float32).reshape(1, 1, 1, -1)
    normalize(image, schemes)
    return image.ravel().tolist()


def test_axes_run_as_simpleitk_gives_them():
    volume = make_volume()
    array, placement = make_preparation()(volume)
    assert array.dtype == np.float32 and np.array_equal(array[0], volume.array[0].T)
    assert np.array_equal(placement.to_stored(array), volume.array)
    assert placement.grid.spacing_mm == (3.0, 1.5, 1.5)


def test_the_plans_permute_them_further():
    volume = make_volume()
    array, placement = make_preparation(transpose=(2, 0, 1), spacing_mm=(1.5, 3.0, 1.5))(volume)
    assert np.array_equal(array[0], volume.array[0].T.transpose(2, 0, 1))
    assert np.array_equal(placement.to_stored(array), volume.array)


def test_slices_of_a_2d_model_come_last_and_none_is_made_up():
    volume = make_volume((4, 2, 3), (1.5, 1.5, 9.0))
    array, placement = make_preparation(spacing_mm=(1.5, 0.75))(volume)  # along j, then along i
    assert array.shape == (1, 2, 8, 3)
    assert placement.grid.spacing_mm == (1.5, 0.75, 9.0)


def test_a_picture_has_rows_and_columns():
    picture = Volume(np.arange(12.0).reshape(1, 3, 4, 1) + 1, Geometry((3, 4, 1), np.eye(4)))
    array, _ = make_preparation(reader="NaturalImage2DIO", spacing_mm=(1.0, 1.0))(picture)
    assert np.array_equal(array, picture.array)


@pytest.mark.parametrize("storage", STORAGES[::7])
def test_readers_that_turn_images_see_one_array_however_it_is_stored(storage: Any):
    volume = make_volume()
    stored = Volume(*restore(volume.array, volume.geometry, storage))
    preparation = make_preparation(reader="NibabelIOWithReorient")
    array, placement = preparation(stored)
    assert np.array_equal(array, preparation(volume)[0])
    assert np.array_equal(placement.to_stored(array), stored.array)
    assert np.allclose(positions(placement.canonical)[:, 0, 0, 0], volume.geometry.to_world((0, 0, 0)))


def test_zeros_around_the_image_are_cut_off_and_remembered():
    image = np.zeros((1, 5, 4, 3), np.float32)
    image[0, 1:3, 1:4, 2] = 7
    array, placement = make_preparation()(Volume(image, Geometry.of_spacing((5, 4, 3), (1.5, 1.5, 3.0))))
    assert array.shape == (1, 1, 3, 2) and (array == 7).all()
    assert (placement.start, placement.stop) == ((2, 1, 1), (3, 4, 3))


def test_the_grid_is_known_from_the_header_where_nothing_is_cut_off():
    for preparation in (
        make_preparation(spacing_mm=(2.0, 3.0, 0.5)),
        make_preparation(spacing_mm=(3.0, 0.5)),
    ):
        volume = make_volume((5, 7, 2))
        assert preparation.grid_shape(volume.geometry) == preparation(volume)[0].shape[1:]


def test_half_voxels_of_a_shape_go_to_the_even_number():
    volume = make_volume((5, 7, 2))
    assert make_preparation(spacing_mm=(3.0, 3.0, 3.0))(volume)[0].shape == (1, 2, 4, 2)  # 3.5 and 2.5


def test_a_coarse_axis_is_resampled_by_the_nearest_slice():
    ramp = np.zeros((1, 2, 2, 3), np.float32) + np.array([10, 20, 30], np.float32)
    volume = Volume(ramp, Geometry.of_spacing((2, 2, 3), (1.0, 1.0, 4.0)))
    array, placement = make_preparation(spacing_mm=(2.0, 1.0, 1.0))(volume)
    assert array[0, :, 0, 0].tolist() == [10, 10, 20, 20, 30, 30]
    assert placement.linear_orders == (0, 1, 1)


def test_orders_follow_the_plans():
    fine, coarse = (1.0, 1.0, 1.0), (1.0, 5.0, 1.0)
    assert CUBIC.choose_orders(fine, fine) == (3, 3, 3)
    assert CUBIC.choose_orders(fine, coarse) == CUBIC.choose_orders(coarse, fine) == (3, 0, 3)
    assert CUBIC.choose_orders((1.0, 5.0, 5.0), fine) == (3, 3, 3)
    assert CUBIC.choose_orders(coarse, (5.0, 1.0, 1.0)) == (3, 0, 3)  # what is resampled comes first
    assert Resampling(order=3, order_z=1, force_separate_z=True).choose_orders((1.0, 1.0, 2.0), fine) == (
        3,
        3,
        1,
    )
    assert Resampling(order=1, force_separate_z=False).choose_orders(coarse, fine) == (1, 1, 1)


def test_ct_is_clipped_and_scaled_by_the_training_sets_numbers():
    assert scale([-5, 0, 75, 500], Scheme("CTNormalization", properties=CT)) == [-2, -2, 1, 2]


def test_a_z_score_is_the_images_own():
    assert scale([1, 1, 3, 3], Scheme("ZScoreNormalization")) == [-1, -1, 1, 1]
    assert scale([4, 4], Scheme("ZScoreNormalization")) == [0, 0]


def test_a_masked_z_score_leaves_the_outside_at_zero():
    assert scale([0, 1, 3, 0], Scheme("ZScoreNormalization", is_masked=True)) == [0, -1, 1, 0]
    assert scale([0, 0], Scheme("ZScoreNormalization", is_masked=True)) == [0, 0]


def test_a_hole_lies_inside_the_mask():
    image = np.full((1, 3, 3, 3), 2, np.float32)
    image[0, 1, 1, 1] = 0
    normalize(image, (Scheme("ZScoreNormalization", is_masked=True),))
    assert image.mean() == pytest.approx(0, abs=1e-6) and image[0, 1, 1, 1] < -5


def test_other_schemes_map_to_0_and_1():
    assert scale([2, 4, 6], Scheme("RescaleTo01Normalization")) == [0, 0.5, 1]
    assert scale([0, 51, 255], Scheme("RGBTo01Normalization")) == pytest.approx([0, 0.2, 1])
    assert scale([0, 9], Scheme("NoNormalization")) == [0, 9]


def make_row(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values).reshape(1, 1, -1)


def test_a_mask_on_its_own_grid_is_one_channel_a_label():
    channels = one_hot(make_row(0, 1, 2), [1, 2], (1, 1, 3), (1, 1, 1))
    assert channels[:, 0, 0].tolist() == [[0, 1, 0], [0, 0, 1]]


def test_the_label_with_the_largest_weight_is_taken():
    channels = one_hot(make_row(1, 1, 2, 2, 2, 2), [1, 2], (1, 1, 2), (1, 1, 1))  # voxels 1 and 4
    assert channels[:, 0, 0].tolist() == [[1, 0], [0, 1]]


def test_equal_weights_go_to_the_nearest_label():
    row = make_row(0, 1, 2, 0)  # halves: between 0 and 1, between 2 and 0; the nearest is the later one
    from medseg.data.resample import resample_image

    nearest = resample_image(row[None], (1, 1, 2), orders=(0, 0, 0))[0].ravel()
    channels = one_hot(row, [1, 2], (1, 1, 2), (1, 1, 1))
    assert channels[:, 0, 0].tolist() == [[float(v == c) for v in nearest] for c in (1, 2)]


def test_where_the_nearest_label_lost_the_lowest_of_the_best_is_taken():
    block = np.array([3, 1, 1, 1, 2, 2, 2, 3]).reshape(2, 2, 2)  # at its centre 1 and 2 have 3 of 8, 3 has 2
    assert one_hot(block, [1, 2, 3], (1, 1, 1), (1, 1, 1)).ravel().tolist() == [1, 0, 0]
